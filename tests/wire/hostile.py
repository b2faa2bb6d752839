"""The arguments that must come through every shell, and a verb for them."""

from btrfs_backup_ng.wire.grammar import Verb, read_script


class Made(Verb):
    """A verb that a test makes.

    :param body: what it does, behind what all verbs share.
    """

    def __init__(self, name: str, body: str) -> None:
        vars(self).update(name=name, libraries=(), body=body)

    @property
    def pieces(self) -> tuple[str, ...]:
        """Return the parts of the text that a shell runs."""
        return read_script("common"), str(vars(self)["body"])


#: Prints its arguments, each with a NUL behind it.
PRINT = Made("print", 'for word; do printf "%s\\0" "$word"; done; finish 0')

#: Arguments that some shell or some command on the way would give a meaning.
HOSTILE = [
    b"",
    b" ",
    b"  two  spaces  ",
    b"\n",
    b"\n\n\n",
    b"ends with newline\n",
    b"\nbegins with newline",
    b"in\nthe middle",
    b"\r",
    b"\r\n",
    b"\t",
    b"-",
    b"--",
    b"-n",
    b"-e",
    b"-rf",
    b"--help",
    b"+",
    b"++",
    b"+0141",
    b"+a+b+",
    b"x+",
    b"'",
    b"''",
    b'"',
    b"it's",
    b"'\\''",
    b"!",
    b"!!",
    b"!$",
    b"a!b",
    b"$",
    b"$HOME",
    b"${HOME}",
    b"$(id)",
    b"$((1+1))",
    b"`id`",
    b"\\",
    b"\\\\",
    b"\\\\\\",
    b"\\n",
    b"\\0141",
    b"\\c stop",
    b"x\\",
    b"%s%n%d",
    b"%",
    b"*",
    b"?",
    b"[a-z]*",
    b"{a,b}",
    b"~",
    b"~root",
    b"#",
    b"a#b",
    b";",
    b"a;id",
    b"&",
    b"&&id",
    b"|",
    b"||id",
    b"<",
    b">",
    b">/dev/null",
    b"^",
    b"=",
    b"=ls",
    b"a=b",
    b"(",
    b")",
    b"()",
    b"@",
    b":",
    b",",
    b".",
    b"..",
    b"\x01",
    b"\x07\x08\x1b[31m",
    b"\x7f",
    b"\x80",
    b"\xff\xfe",
    b"\xc3",
    b"gr\xc3\xb6\xc3\x9fe",
    b"\xf0\x9f\x90\x84",
    bytes(range(1, 256)),
    b"x" * 255,
    b"\xff" * 255,
    b"\n" * 255,
    b"\\" * 255,
    b"+" * 255,
]
