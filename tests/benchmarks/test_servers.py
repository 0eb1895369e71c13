"""A peer that is not installed is left out, and the command that installs it is told."""

import pytest

from benchmarks import servers
from benchmarks.rounds import Size
from benchmarks.servers import SERVERS, install_programs


@pytest.fixture
def without_nchan(monkeypatch):
    monkeypatch.setattr(servers, "program", lambda name: None if name == servers.NCHAN else f"/bin/{name}")
    monkeypatch.setattr(servers.shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def commands(monkeypatch):
    ran = []
    monkeypatch.setattr(servers.subprocess, "run", lambda command, **_: ran.append(command))
    return ran


def test_a_peer_without_its_program_is_left_out(without_nchan):
    assert SERVERS["nchan"].missing() == ["ngx_nchan_module.so (Debian: nginx-light libnginx-mod-nchan)"]
    assert Size(short=True).servers("nchan", "writeloop") == [SERVERS["writeloop"]]


def test_root_installs_what_is_missing(without_nchan, commands, monkeypatch):
    monkeypatch.setattr(servers.os, "geteuid", lambda: 0)
    install_programs()
    (command,) = commands
    assert command[:2] == ["apt-get", "install"]
    assert command[-2:] == ["libnginx-mod-nchan", "nginx-light"]


def test_others_are_told_the_command(without_nchan, commands, monkeypatch, capsys):
    monkeypatch.setattr(servers.os, "geteuid", lambda: 1000)
    install_programs()
    assert commands == []
    assert "sudo apt-get install" in capsys.readouterr().out


def test_nothing_is_installed_where_all_is_there(commands, monkeypatch):
    monkeypatch.setattr(servers, "program", lambda name: f"/bin/{name}")
    install_programs()
    assert commands == []


def test_the_configuration_of_nginx_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "program", lambda name: f"/somewhere/{name}")
    command = SERVERS["nchan"].command(8123, tmp_path)
    text = (tmp_path / "nginx.conf").read_text()
    assert command[0] == "/somewhere/nginx"
    assert "load_module /somewhere/ngx_nchan_module.so;" in text
    assert "listen 127.0.0.1:8123 " in text
    assert "@" not in text.partition("servers.py.")[2]
