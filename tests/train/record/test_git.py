"""The git state of a folder, against git itself, and that a hostile repository starts nothing."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from adreg.train.record.git import git_state


def run(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    (folder / "inner").mkdir(parents=True)
    run(folder, "init", "-q")
    (folder / "a.txt").write_text("one\n")
    (folder / "inner" / "b.txt").write_text("two\n")
    run(folder, "add", ".")
    run(folder, "commit", "-qm", "first")
    return folder


def test_commit_and_changes_as_git_sees_them(repository):
    head = run(repository, "rev-parse", "HEAD")
    assert git_state(repository / "inner") == {"commit": head, "dirty": False}
    os.utime(repository / "a.txt", (1, 1))
    (repository / "untracked").write_text("x")
    assert git_state(repository) == {"commit": head, "dirty": False}
    (repository / "a.txt").write_text("two\n")
    assert git_state(repository) == {"commit": head, "dirty": True}
    run(repository, "checkout", "-q", "a.txt")
    (repository / "inner" / "b.txt").unlink()
    assert git_state(repository)["dirty"] is True
    run(repository, "rm", "-q", "--cached", "inner/b.txt")
    assert git_state(repository)["dirty"] is True


def test_without_git_the_commit_is_read_from_its_files(repository, tmp_path, monkeypatch):
    head = run(repository, "rev-parse", "HEAD")
    run(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for folder in (repository, tmp_path / "tree"):
        assert git_state(folder) == {"commit": head, "dirty": None}
    run(repository, "pack-refs", "--all")
    assert git_state(repository)["commit"] == head
    (repository / ".git" / "HEAD").unlink()
    assert git_state(repository) == {"commit": None, "dirty": None}


def test_outside_of_a_repository_and_before_its_first_commit_nothing_is_known(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    run(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_no_program_that_a_repository_names_is_started(repository, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    for name in ("core.fsmonitor", "filter.x.clean", "filter.x.process", "diff.external", "core.sshCommand", "core.pager"):
        run(repository, "config", name, str(trap))
    run(repository, "config", "core.hooksPath", str(tmp_path))
    (repository / ".gitattributes").write_text("* filter=x\n")
    (tmp_path / "post-index-change").write_bytes(trap.read_bytes())
    (tmp_path / "post-index-change").chmod(0o755)
    (repository / "a.txt").write_text("other\n")
    os.utime(repository / "inner" / "b.txt", (1, 1))
    assert git_state(repository)["dirty"] is True
    assert not (tmp_path / "sprung").exists()
