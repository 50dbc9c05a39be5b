"""Names that nobody means well with, and folders that hold more than files."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TRAVERSAL = [
    "..", ".", "../x", "../../etc/passwd", "..\\x", "a/../b", "a/..", "a/./b", "./a", "a/", "/a", "//a", "a//b", "/etc/passwd",
    "~", "~root", "~/x", "....//x", "..;/x", "a/..%2fb", "%2e%2e%2fx", "%2e%2e/x", "..%2fx", "..%5cx", "%252e%252e%252fx",
    "..%c0%afx", "%00", "a%00b", "a%2fb%2fc", "file:///etc/passwd", "file:x", "http://x/y", "\\\\host\\share", "\\x", "a\\b",
    "C:", "C:\\x", "c:/x", "c:x", "a:b:c", "nul:", "a..b", "x/..b", ".hidden", "-rf", "--help", "a/-b", "$HOME", "${HOME}",
    "`id`", "$(id)", "a;b", "a|b", "a&b", "a b", " a", "a ", "a.", "a..", "a/b/c", "*", "?", "a*", "[a]", "{a,b}", "'a'", '"a"',
]  # fmt: skip
RESERVED = ["con", "prn", "aux", "nul", "com1", "lpt1", "con.txt", "aux/x", "x/nul", "clock$", "CON", "Nul"]
CONTROL = [f"a{chr(code)}b" for code in (*range(0, 32), 127, 0x85, 0xA0)] + ["a\n", "\na", "a\r\n", "\x1b[31mred"]
UNICODE = [
    "ünï", "a\u0301", "\u00e1", "ＡＢＣ", "ａ", "а", "ο", "ı", "ſ", "K", "ﬁ", "a\u200bb", "a\u200db", "\u202eabc", "a\ufeff",
    "\ufeffa", "a\u2044b", "a\uff0fb", "a\u2215b", "a\u29f8b", "\uff0e\uff0e\uff0fx", "\u2024\u2024/x", "a\u2028b", "a\u00adb",
    "😀", "٣", "১", "²", "a:٣", "a:²", "\ud800", "a\udcff", "\udc2e\udc2e/x", "a\u0000", "\u0000",
]  # fmt: skip
LONG = ["a" * 97, "a" * 255, "a" * 300, "a" * 5000, f"{'a' * 97}/b", f"b/{'a' * 97}", "a/" * 200, "../" * 100, "é" * 150]
LIKE_OURS = [
    "adreg.db", "adreg.db.seal", "adreg.db-journal", "blobs", "tmp", "trash", "sha256", "ns/adreg.db", "a@sha256:12", "a@", "@",
    "a@sha256:" + "0" * 65, "a@sha256:" + "g" * 12, "a@sha256:../../x", "a@md5:123456789012", ":", "a:", ":1", "a:0", "a:01",
    "a:-1", "a:1e3", "a:12345678901", "a:1/2", "", "'; drop table version; --", "%", "_", "a%", "' or 1=1 --",
]  # fmt: skip
NAMES = list(dict.fromkeys([*TRAVERSAL, *RESERVED, *CONTROL, *UNICODE, *LONG, *LIKE_OURS]))
ENTRIES = ["adapter_model.safetensors", "adapter_config.json", "README.md", "LICENSE", "adreg.json", "tokenizer.json"]


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def upwards(path: Path) -> None:
    path.symlink_to("../outside.json")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may not be long
        bound.bind(path.name)
        os.chdir(here)


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inner").write_text("x")


KINDS: list[Callable[[Path], None]] = [link, loop, dangling, upwards, pipe, listening, device, folder]


def replace(path: Path, kind: Callable[[Path], None]) -> bool:
    """Put something that is no file in the place of `path`; False where this user may not make one."""
    path.unlink(missing_ok=True)
    with suppress(PermissionError):
        kind(path)
        return True
    return False


def odd_files(where: Path) -> None:
    """Files whose names are as odd as the file system lets them be."""
    for name in [
        *NAMES,
        "x\n",
        "\\..\\..\\x",
        "adapter_model.safetensors ",
        "ADAPTER_MODEL.SAFETENSORS",
        "adapter_model.bin.py",
    ]:
        with suppress(OSError, ValueError):
            if "/" not in name:
                (where / name).write_text("odd")
    with suppress(OSError):
        Path(os.fsdecode(os.fsencode(where) + b"/\xff\xfe.json")).write_text("odd")
