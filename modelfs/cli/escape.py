"""Text that others chose, such as names of files: shown as it is, never obeyed by a terminal."""


def plain(text: str) -> str:
    """Return a name so that it can be printed: what is no printable character as its escape."""
    text = text.encode("utf-8", "surrogateescape" if _has_only_bytes(text) else "replace").decode(
        "utf-8", "backslashreplace"
    )
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _has_only_bytes(text: str) -> bool:
    # Names of files may hold bytes that are no UTF-8; names of tensors may hold lone surrogates.
    return all(not 0xD800 <= ord(each) <= 0xDFFF or 0xDC80 <= ord(each) <= 0xDCFF for each in text)
