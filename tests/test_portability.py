"""Text is UTF-8 on every system, and nothing that only POSIX has is used unguarded."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT_CALLS = {"open", "read_text", "write_text", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}
BINARY_BY_DEFAULT = {"NamedTemporaryFile"}
NOT_TEXT = ("os.open", "av.", "soundfile.", "tarfile.", "archive.", "Image.", "gzip.")
"""Beginnings of calls that open no text file."""

POSIX = {
    "os": """O_RDONLY
        chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg
        getpgid getpgrp getpriority getsid getuid killpg lchown mkfifo mknod nice openpty
        posix_fallocate posix_spawn pread pwrite sched_getaffinity sched_setaffinity setegid
        seteuid setgid setgroups setpgid setpriority setsid setuid statvfs sysconf uname wait3
        wait4 waitid""",
    "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1
        SIGUSR2 alarm pause pthread_kill setitimer sigwait""",
    "socket": "AF_UNIX",
}
ANYWHERE = ("symlink", "symlink_to")
"""Methods that Windows allows to few users."""
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
GUARDS = ("hasattr", "platform", "os.name", "posix_only", "getattr")


def sources() -> list[Path]:
    """All Python files that belong to the project."""
    names = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    ).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).exists()]


def walk(
    node: ast.AST, above: tuple[ast.AST, ...] = ()
) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with those that it is in."""
    for child in ast.iter_child_nodes(node):
        yield child, (*above, node)
        yield from walk(child, (*above, node))


def has_encoding(call: ast.Call, name: str) -> bool:
    if any(keyword.arg in ("encoding", None) for keyword in call.keywords):
        return True
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args
    constants = (node for mode in modes for node in ast.walk(mode))
    texts = [node.value for node in constants if isinstance(node, ast.Constant)]
    if name in ("read_text", "write_text"):
        return len(call.args) > (name == "write_text")
    is_binary = any(isinstance(text, str) and "b" in text and len(text) <= 3 for text in texts)
    return is_binary or (
        name in BINARY_BY_DEFAULT and not any(k.arg == "mode" for k in call.keywords)
    )


def without_encoding(tree: ast.Module) -> Iterator[int]:
    for call, _ in walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        whole = ast.unparse(call.func)
        if name in TEXT_CALLS and not whole.startswith(NOT_TEXT) and not has_encoding(call, name):
            yield call.lineno


def is_guarded(above: tuple[ast.AST, ...]) -> bool:
    for node in above:
        if isinstance(node, (ast.If, ast.IfExp)) and any(
            g in ast.unparse(node.test) for g in GUARDS
        ):
            return True
        if isinstance(node, ast.Try) and any(
            handler.type is None or "Error" in ast.unparse(handler.type)
            for handler in node.handlers
        ):
            return True
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and any(
            "posix_only" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            return True
        if isinstance(node, ast.Module) and any(
            isinstance(line, ast.Assign)
            and "pytestmark" in ast.unparse(line)
            and "posix_only" in ast.unparse(line)
            for line in node.body
        ):
            return True
    return False


def unguarded(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node, above in walk(tree):
        used = ""
        if isinstance(node, ast.Attribute):
            module = ast.unparse(node.value)
            if node.attr in ANYWHERE or node.attr in POSIX.get(module, "").split():
                used = f"{module}.{node.attr}"
        elif isinstance(node, ast.Import):
            used = ", ".join(alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            used = node.module if node.module in MODULES else ""
            names = POSIX.get(node.module or "", "").split()
            used = used or ", ".join(alias.name for alias in node.names if alias.name in names)
        if used and not is_guarded(above):
            yield node.lineno, used


def test_text_files_are_opened_as_utf_8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        for line in without_encoding(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


def test_what_only_posix_has_is_guarded() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {used}"
        for path in sources()
        for line, used in unguarded(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    ["open('a')", "open('a', 'w')", "path.read_text()", "path.open()", "path.write_text(x)"],
)
def test_a_text_file_without_encoding_is_found(text: str) -> None:
    assert list(without_encoding(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "open('a', 'rb')",
        "open('a', encoding='utf-8')",
        "path.read_text('utf-8')",
        "open(a, **OPEN)",
    ],
)
def test_other_files_are_not(text: str) -> None:
    assert not list(without_encoding(ast.parse(text)))


@pytest.mark.parametrize("text", ["import resource", "os.mkfifo(p)", "from signal import SIGKILL"])
def test_what_only_posix_has_is_found(text: str) -> None:
    assert list(unguarded(ast.parse(text)))
    assert not list(unguarded(ast.parse(f"if os.name == 'posix':\n    {text}")))
