"""Hashes follow what they are of, and nothing else."""

from __future__ import annotations

import os

import pytest

from isobit.sweep import hashes
from isobit.sweep.hashes import MISSING, UNREADABLE, build_sha256, files_sha256, sources_sha256, tree_sha256


@pytest.fixture(autouse=True)
def fresh():
    """What one test hashed is another's file by now."""
    tree_sha256.cache_clear()
    build_sha256.cache_clear()


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tree_sha256.cache_clear()
    build_sha256.cache_clear()


def test_a_folders_hash_is_of_names_and_bytes_and_not_of_its_place(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, {"x/1.png": "one", "2.png": "two"})
    assert tree_sha256(tmp_path / "a") == tree_sha256(tmp_path / "b")
    before = tree_sha256(tmp_path / "a")
    write(tmp_path / "a", {"x/1.png": "other"})
    assert tree_sha256(tmp_path / "a") != before
    write(tmp_path / "b", {"x/3.png": "one"})
    assert tree_sha256(tmp_path / "b") != before


def test_what_is_not_there_is_a_word(tmp_path):
    assert tree_sha256(tmp_path / "none") == MISSING and tree_sha256(tmp_path / "a\0b") in (MISSING, UNREADABLE)
    os.mkfifo(tmp_path / "pipe")
    assert tree_sha256(tmp_path) != MISSING


def test_code_counts_and_comments_do_not(tmp_path):
    write(tmp_path, {"isobit/build.py": '"""What."""\nx = 1\n', "backends/c/kernel.c": "int x;"})
    before, builds, files = sources_sha256(tmp_path), build_sha256(tmp_path), files_sha256(tmp_path)
    write(tmp_path, {"isobit/build.py": '"""Why."""\nx = 1  # one\n'})
    assert sources_sha256(tmp_path) == before and build_sha256(tmp_path) == builds
    files_sha256.cache_clear()
    assert files_sha256(tmp_path) != files
    write(tmp_path, {"backends/c/kernel.c": "int y;"})
    assert sources_sha256(tmp_path) == before and build_sha256(tmp_path) != builds
    write(tmp_path, {"isobit/build.py": "x = 2\n"})
    assert sources_sha256(tmp_path) != before


@pytest.mark.parametrize(("before", "after"), [
    ('class A(One): """What."""\n', 'class A(Two): """What."""\n'), ('"""What."""; x = 1\n', '"""What."""; x = 2\n')])
def test_code_on_the_line_of_a_docstring_counts(tmp_path, before, after):
    write(tmp_path, {"isobit/build.py": before})
    first = sources_sha256(tmp_path)
    write(tmp_path, {"isobit/build.py": after})
    assert sources_sha256(tmp_path) != first


def test_the_sweeps_own_code_changes_no_artifact(tmp_path):
    write(tmp_path, {"isobit/build.py": "x = 1"})
    before = build_sha256(tmp_path)
    write(tmp_path, {"isobit/sweep/drive.py": "x = 1", "isobit/cli/artifacts/sweep.py": "x = 1"})
    assert build_sha256(tmp_path) == before != sources_sha256(tmp_path)
    for name in hashes.NOT_OF_BUILDS:
        assert (hashes.ROOT / name).exists() or name.endswith(".")


def test_an_installation_has_the_hash_of_its_checkout(tmp_path):
    write(tmp_path / "checkout", {"isobit/build.py": "x = 1", "pipeline/a/b.py": "y = 1"})
    write(tmp_path / "installed", {"isobit/build.py": "x = 1", "isobit/pipeline/a/b.py": "y = 1"})
    assert build_sha256(tmp_path / "checkout") == build_sha256(tmp_path / "installed")
