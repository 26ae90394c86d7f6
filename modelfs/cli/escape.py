"""Escapes for text that others chose, such as names of files: a terminal must not obey it."""


def plain(text: str) -> str:
    """Return a text with every unprintable character replaced by its Python escape."""
    # Names of files may have bytes that are not UTF-8, which Python keeps as the surrogates U+DC80
    # to U+DCFF. Names of tensors may have any surrogate.
    only_bytes = all(
        not 0xD800 <= ord(letter) <= 0xDFFF or 0xDC80 <= ord(letter) <= 0xDCFF for letter in text
    )
    text = text.encode("utf-8", "surrogateescape" if only_bytes else "replace").decode(
        "utf-8", "backslashreplace"
    )
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
