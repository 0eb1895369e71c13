"""Files of a project that are edited in place: what is not changed stays as it is, byte for byte."""

import ast
import os
import re
import tokenize
from collections.abc import Iterator
from difflib import unified_diff
from io import BytesIO
from pathlib import Path

Sequence = ast.List | ast.Tuple


OURS = Path(__file__).resolve().parent.parent


def is_the_projects(path: Path) -> bool:
    """Tell whether a file is for the project to change, and not that of an installed package."""
    path = path.resolve()
    return not (path.is_relative_to(OURS) or {"site-packages", "dist-packages"}.intersection(path.parts))


class Unsure(Exception):
    """The file is written in a way that is not understood, or cannot be read; nothing of it was changed."""


class TextFile:
    """A file with its text as it is and as it is to become. One that does not exist has none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes() if path.exists() else b""
            self.encoding = self._encoding_of(content)
            self.text = self.original = content.decode(self.encoding)
        except (OSError, SyntaxError, UnicodeError) as error:
            raise Unsure(f"{path} cannot be read: {error}") from error
        self.newline = "\r\n" if "\r\n" in self.text else "\n"

    def _encoding_of(self, content: bytes) -> str:
        return "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"

    @property
    def is_changed(self) -> bool:
        return self.text != self.original

    @property
    def is_writable(self) -> bool:
        """Tell whether it may be written. Root may write what others may not, and should not do so unasked."""
        existing = next(each for each in (self.path, *self.path.parents) if each.exists())
        return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & 0o222)

    def revert_to(self, text: str) -> None:
        """Take back what was changed since the text was this one."""
        self.text = text

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self.text.encode(self.encoding))

    def diff(self, root: Path) -> Iterator[str]:
        """Return the lines of a unified diff, as `patch -p1` in `root` reads them."""
        path = os.path.relpath(self.path, root)
        before = f"a/{path}" if self.path.exists() else "/dev/null"
        for line in unified_diff(_lines(self.original), _lines(self.text), before, f"b/{path}"):
            yield line.rstrip("\r\n")
            if not line.endswith("\n"):
                yield "\\ No newline at end of file"


class PythonFile(TextFile):
    """A file with code. Each change is one of its syntax tree: if the text then has another tree, Unsure is raised."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.tree = self._parse()

    def _encoding_of(self, content: bytes) -> str:
        return tokenize.detect_encoding(BytesIO(content).readline)[0]

    def _parse(self) -> ast.Module:
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError) as error:
            raise Unsure(f"{self.path} is no valid Python: {error}") from error

    def revert_to(self, text: str) -> None:
        super().revert_to(text)
        self.tree = self._parse()

    # What is there

    def assigned(self, name: str) -> ast.expr | None:
        """Return what the module assigns to a name, or None if it does not.

        Statements that only add to it are left out. Raises Unsure if there are several, or if it hangs on a condition.
        """
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                    used = {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
                    if name not in used:
                        found.append((node, node.value))
        if not found:
            return None
        [(node, value), *others] = found
        if others or node not in self.tree.body:
            raise Unsure(f"{name} of {self.path} hangs on a condition, or has several values")
        return value

    def literals(self, value: ast.expr, name: str = "") -> list[tuple[str, Sequence]]:
        """Return the lists and tuples that a value is put together from, each with the name that it has."""
        match value:
            case ast.List() | ast.Tuple():
                inner = [each.value for each in value.elts if isinstance(each, ast.Starred)]
                return [*(found for each in inner for found in self.literals(each, name)), (name, value)]
            case ast.BinOp(op=ast.Add()):
                return [*self.literals(value.left, name), *self.literals(value.right, name)]
            case ast.Name(id=other):
                assigned = self.assigned(other)
                return [] if assigned is None else self.literals(assigned, other)
        return []

    def quote(self) -> str:
        """Return the quotation mark that the file's strings have."""
        return "'" if self.text.count("'") > self.text.count('"') else '"'

    def imported(self) -> dict[str, str]:
        """Return the names that the module imports from others, each with its module."""
        froms = [node for node in self.tree.body if isinstance(node, ast.ImportFrom)]
        return {alias.asname or alias.name: node.module or "" for node in froms for alias in node.names}

    # Changes

    def insert(self, sequence: Sequence, index: int, code: str) -> None:
        """Insert an element into a list or tuple, on a line of its own if its neighbour has one."""
        elements = sequence.elts
        if not elements:
            start = self._offset(sequence.lineno, sequence.col_offset) + 1
            edits = [(start, code if isinstance(sequence, ast.List) else f"{code},")]
        elif index < len(elements):
            start = self._start(elements[index])
            indent = self._indent(start)
            edits = [(start, f"{code}, " if indent is None else f"{code},{self.newline}{indent}")]
        else:
            edits = self._after(elements[-1], code)
        sequence.elts.insert(index, ast.parse(code, mode="eval").body)
        self._edit(edits)

    def _after(self, last: ast.expr, code: str) -> list[tuple[int, str]]:
        start, end = self._start(last), self._end(last)
        comma = re.compile(r"[ \t]*,").match(self.text, end)
        indent = self._indent(start)
        if indent is None:
            return [(comma.end(), f" {code},")] if comma else [(end, f", {code}")]
        line = f"{self.newline}{indent}{code}"
        # A comment in the same line belongs to the element.
        rest = re.compile(r"[ \t]*(#[^\r\n]*)?(?=[\r\n])").match(self.text, comma.end() if comma else end)
        if comma:
            return [(rest.end() if rest else comma.end(), f"{line},")]
        return [(end, ","), (rest.end() if rest else end, line)]

    def insert_after(self, statement: ast.stmt, code: str) -> None:
        """Insert a statement after another one of the module."""
        self.tree.body.insert(self.tree.body.index(statement) + 1, ast.parse(code).body[0])
        end = self._offset(statement.end_lineno or 0, statement.end_col_offset or 0)
        rest = re.compile(r"[ \t]*(#[^\r\n]*)?").match(self.text, end)
        self._edit([(rest.end() if rest else end, f"{self.newline}{code}")])

    def add_imports(self, module: str, names: list[str]) -> None:
        """Import names from a module, in the statement that imports others from it if there is one."""
        froms = [node for node in self.tree.body if isinstance(node, ast.ImportFrom)]
        found = next((node for node in froms if node.module == module and node.level == 0), None)
        if found is None:
            imports = [node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            if not imports:
                raise Unsure(f"{self.path} imports nothing")
            self.insert_after(imports[-1], f"from {module} import {', '.join(names)}")
            return
        for name in names:
            found = next(node for node in self.tree.body if isinstance(node, ast.ImportFrom) and node.module == module)
            later = [index for index, alias in enumerate(found.names) if alias.name > name]
            index = later[0] if later else len(found.names)
            if later:
                start = self._offset(found.names[index].lineno, found.names[index].col_offset)
                indent = self._indent(start)
                edits = [(start, f"{name}, " if indent is None else f"{name},{self.newline}{indent}")]
            else:
                last = found.names[-1]
                edits = [(self._offset(last.end_lineno or 0, last.end_col_offset or 0), f", {name}")]
            found.names.insert(index, ast.alias(name))
            self._edit(edits)

    def replace_module(self, statement: ast.ImportFrom, module: str) -> None:
        """Import the same from another module."""
        old = statement.module or ""
        start = self.text.index(old, self._start(statement))
        statement.module = module
        self._edit([(start, module)], remove=len(old))

    def _edit(self, edits: list[tuple[int, str]], *, remove: int = 0) -> None:
        old, text = self.text, self.text
        for start, new in reversed(edits):
            text = text[:start] + new + text[start + remove :]
        expected, self.text = self.tree, text
        try:
            self.tree = self._parse()
            if ast.dump(self.tree) == ast.dump(expected):
                return
        except Unsure:
            pass
        self.revert_to(old)
        raise Unsure(f"{self.path} is not understood")

    # Where things are

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._offset(node.lineno, node.col_offset)

    def _end(self, node: ast.expr) -> int:
        return self._offset(node.end_lineno or 0, node.end_col_offset or 0)

    def _offset(self, line: int, column: int) -> int:
        """Return the index in the text: ast counts lines from 1, and the bytes of UTF-8 in them."""
        starts = [0, *(found.end() for found in re.finditer(r"\r\n|\r|\n", self.text))]
        start = starts[line - 1]
        return start + len(self.text[start : start + column].encode()[:column].decode())

    def _indent(self, start: int) -> str | None:
        """Return what is before it in its line, or None if that is not blank."""
        before = re.split(r"[\r\n]", self.text[:start])[-1]
        return before if not before.strip() else None


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+$", text)
