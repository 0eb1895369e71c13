"""Edits of source text: the new element looks like its neighbours, and all else stays byte for byte."""

import ast

import pytest

from ds_broadcaster.management.source import PythonFile, TextFile, Unsure


@pytest.fixture
def file(tmp_path):
    def file(content):
        path = tmp_path / "settings.py"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return PythonFile(path)

    return file


def insert(file, index=None, code="'new'", name="X"):
    (_, sequence) = file.literals(file.assigned(name), name)[-1]
    file.insert(sequence, len(sequence.elts) if index is None else index, code)
    return file.text


@pytest.mark.parametrize(
    "before, index, after",
    [
        ("X = ['a', 'b']\n", None, "X = ['a', 'b', 'new']\n"),
        ("X = ['a', 'b']\n", 1, "X = ['a', 'new', 'b']\n"),
        ("X = ['a', 'b',]\n", None, "X = ['a', 'b', 'new',]\n"),
        ("X = ['a', 'b']  # two\n", 0, "X = ['new', 'a', 'b']  # two\n"),
        ("X = ('a',)\n", None, "X = ('a', 'new',)\n"),
        ("X = 'a', 'b'\n", None, "X = 'a', 'b', 'new'\n"),
        ("X = []\n", None, "X = ['new']\n"),
        ("X = ()\n", None, "X = ('new',)\n"),
        ("X: list[str] = [\n]\n", None, "X: list[str] = ['new'\n]\n"),
        ("X = [\n    'a',\n    'b',\n]\n", None, "X = [\n    'a',\n    'b',\n    'new',\n]\n"),
        ("X = [\n    'a',\n    'b'\n]\n", None, "X = [\n    'a',\n    'b',\n    'new'\n]\n"),
        ("X = [\n\t'a',\n\t'b',\n]\n", 1, "X = [\n\t'a',\n\t'new',\n\t'b',\n]\n"),
        ("X = [\n  'a',  # one\n]\n", None, "X = [\n  'a',  # one\n  'new',\n]\n"),
        ("X = [\n  'a'  # one\n]\n", None, "X = [\n  'a',  # one\n  'new'\n]\n"),
        ("X = [\n  'a',\n  # the end\n]\n", None, "X = [\n  'a',\n  'new',\n  # the end\n]\n"),
        ("X = [\n  'a',\n  'b']\n", None, "X = [\n  'a',\n  'b',\n  'new']\n"),
        ("X = [\n  'a',\n  'b',]\n", None, "X = [\n  'a',\n  'b',\n  'new',]\n"),
        ("X = [\n  'a', 'b',\n  'c', 'd',\n]\n", None, "X = [\n  'a', 'b',\n  'c', 'd', 'new',\n]\n"),
        ("X = [\r\n  'a',\r\n]\r\n", None, "X = [\r\n  'a',\r\n  'new',\r\n]\r\n"),
        ("X = ['a']", None, "X = ['a', 'new']"),
        ("# Ünïcödé\nY = 'é'; X = ['ä', 'ö']\n", 1, "# Ünïcödé\nY = 'é'; X = ['ä', 'new', 'ö']\n"),
        ("X = ['a'] + Y\n", None, "X = ['a', 'new'] + Y\n"),
        ("X = Y + Z\nY = ['a']\n", None, "X = Y + Z\nY = ['a', 'new']\n"),
        (
            "X = ['a']\nX += ['b']\nif Y:\n    X = [*X, 'c']\n",
            None,
            "X = ['a', 'new']\nX += ['b']\nif Y:\n    X = [*X, 'c']\n",
        ),
        ("X = ['a\\\n', r'''\n''']\f\n", None, "X = ['a\\\n', r'''\n''', 'new']\f\n"),
    ],
)
def test_element_looks_like_its_neighbours(file, before, index, after):
    assert insert(file(before), index) == after


@pytest.mark.parametrize(
    "text",
    [
        "X = [('a')]\n",
        "X = [\n  'a'\n  , ]\n",
        "X = [\n  (\n    'a'\n  ),\n]\n",
    ],
)
def test_text_that_would_mean_something_else_is_not_changed(file, text):
    source = file(text)
    try:
        insert(source)
    except Unsure:
        assert source.text == text
    else:
        assert ast.literal_eval(source.assigned("X")) == ["a", "new"]
    assert not source.is_changed or "new" in source.text


@pytest.mark.parametrize(
    "text",
    [
        "X = ['a']\nX = ['b']\n",
        "if DEBUG:\n    X = ['a']\nelse:\n    X = ['b']\n",
        "X = ['a']\nif DEBUG:\n    X = ['b']\n",
        "class Base:\n    X = ['a']\n",
        "def f():\n    X = ['a']\n",
    ],
)
def test_name_that_hangs_on_a_condition_is_not_known(file, text):
    with pytest.raises(Unsure, match="hangs on a condition"):
        file(text).assigned("X")


@pytest.mark.parametrize("text", ["", "Y = ['a']\n", "X += ['a']\n", "X: list\n"])
def test_name_that_is_not_assigned_is_none(file, text):
    assert file(text).assigned("X") is None


@pytest.mark.parametrize("text", ["X = f()\n", "X = Y\n", "X = 'a'\n", "X = [*f()][0]\n"])
def test_value_that_is_computed_has_no_literals(file, text):
    source = file(text)
    assert source.literals(source.assigned("X")) == []


def test_statement_comes_after_the_comment_of_its_line(file):
    source = file("X = 1  # one\nY = 2")
    source.insert_after(source.tree.body[0], "Z = 3")
    source.insert_after(source.tree.body[2], "A = 4")
    assert source.text == "X = 1  # one\nZ = 3\nY = 2\nA = 4"


def test_statement_comes_before_others_of_its_line(file):
    source = file("X = 1; Y = 2\n")
    source.insert_after(source.tree.body[0], "Z = 3")
    assert source.text == "X = 1\nZ = 3; Y = 2\n"


@pytest.mark.parametrize(
    "before, names, after",
    [
        ("from django.urls import path\n", ["include"], "from django.urls import include, path\n"),
        ("from django.urls import include\n", ["path"], "from django.urls import include, path\n"),
        (
            "from django.urls import re_path as x\n",
            ["include", "path"],
            "from django.urls import include, path, re_path as x\n",
        ),
        (
            "from django.urls import (\n    path,\n    reverse,\n)\n",
            ["include"],
            "from django.urls import (\n    include,\n    path,\n    reverse,\n)\n",
        ),
        (
            "import os  # x\r\n\r\nX = 1\r\n",
            ["path"],
            "import os  # x\r\nfrom django.urls import path\r\n\r\nX = 1\r\n",
        ),
    ],
)
def test_import_joins_the_others_of_its_module(file, before, names, after):
    source = file(before)
    source.add_imports("django.urls", names)
    assert source.text == after


def test_file_is_written_in_its_own_encoding(file):
    for content in (
        b"# -*- coding: latin-1 -*-\nY = '\xe9'\nX = ['\xe4']\n",
        "\ufeffY = 'é'\r\nX = ['ä']\r\n".encode(),
    ):
        source = file(content)
        insert(source)
        source.write()
        assert source.path.read_bytes() == content.replace(b"']", b"', 'new']")


def test_diff_can_be_applied(file, tmp_path):
    source = file("Y = 1\nX = ['a']")
    insert(source)
    new = TextFile(tmp_path / "templates" / "base.html")
    new.text = "<p>\n"
    assert [*source.diff(tmp_path), *new.diff(tmp_path)] == [
        "--- a/settings.py",
        "+++ b/settings.py",
        "@@ -1,2 +1,2 @@",
        " Y = 1",
        "-X = ['a']",
        "\\ No newline at end of file",
        "+X = ['a', 'new']",
        "\\ No newline at end of file",
        "--- /dev/null",
        "+++ b/templates/base.html",
        "@@ -0,0 +1 @@",
        "+<p>",
    ]


@pytest.mark.parametrize("content", [b"X = [", b"X = '\xff'\n", b"# coding: nonsense\n", b"\x00"])
def test_file_that_is_no_python_is_not_understood(file, content):
    with pytest.raises(Unsure):
        file(content)


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_read_only_file_is_not_writable(file, mode):
    source = file("X = 1\n")
    source.path.chmod(mode)
    assert source.is_writable is (mode == 0o644)
    new = TextFile(source.path.parent / "new" / "base.html")
    assert new.is_writable
    source.path.parent.chmod(mode & 0o555 | 0o111)
    assert not new.is_writable
    source.path.parent.chmod(0o755)
