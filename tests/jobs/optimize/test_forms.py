"""Forms: a wrong encoding is never stored."""

import pytest

from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.factored import Grid
from modelfs.jobs.optimize import forms
from modelfs.store.index.chunk_records import ChunkKind

CONTENT = bytes(range(256)) * 16


@pytest.mark.parametrize("stored", [b"", b"junk" * 8])
def test_a_wrong_encoding_leaves_the_chunk_plain(
    monkeypatch: pytest.MonkeyPatch, stored: bytes
) -> None:
    """A chunk stays plain if its encoding decodes to other bytes, or not at all."""

    def wrong(raw: bytes, element: Element, grid: Grid | None) -> tuple[CodecId, bytes]:
        return CodecId.PALETTE, stored

    monkeypatch.setattr(forms, "encode_tensor", wrong)
    form = forms.standalone_form(CONTENT, element_of("U8"))
    assert (form.kind, form.codec, form.stored) == (ChunkKind.PLAIN, CodecId.RAW, CONTENT)
