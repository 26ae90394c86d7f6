"""Forms: whatever a codec does, what is stored comes back."""

import pytest

from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.factored import Grid
from modelfs.jobs.optimize import forms
from modelfs.store.index.records import ChunkKind

CONTENT = bytes(range(256)) * 16


@pytest.mark.parametrize("stored", [b"", b"junk" * 8])
def test_what_does_not_decode_stays_plain(monkeypatch: pytest.MonkeyPatch, stored: bytes) -> None:
    """An encoder with a bug costs room, not the tensor, nor what would be optimized after it."""

    def wrong(raw: bytes, element: Element, grid: Grid | None) -> tuple[CodecId, bytes]:
        return CodecId.PALETTE, stored

    monkeypatch.setattr(forms, "encode_tensor", wrong)
    form = forms.by_itself(CONTENT, element_of("U8"))
    assert (form.kind, form.codec, form.stored) == (ChunkKind.PLAIN, CodecId.RAW, CONTENT)
