"""Each notifier sends to a real server or program, and each failure is named."""

from __future__ import annotations

import email
import email.policy
import json
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.actions.notify import mail as mails
from btrfs_backup_ng.actions.notify import run as notify
from btrfs_backup_ng.actions.notify import web
from btrfs_backup_ng.actions.notify.claims import NOTICES, Claims
from btrfs_backup_ng.core.notices import (
    Affected,
    Message,
    NoticeKind,
    RunSight,
    Trouble,
)
from btrfs_backup_ng.core.notifiers import Mail, Notifiers, Url
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.session.turns import Turns
from tests.support.command_line import password_file, script
from tests.support.servers import Server, serving

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
USB = Affected("home", "usb", "/home", "/mnt/usb")
SIGHT = RunSight(troubles=(Trouble(NoticeKind.FAILURE, USB, "no luck"),))
MESSAGE = Message("home at usb failed: ä\u2026", "Zeile mit ä\n.\nend\n", ())


@pytest.fixture
def http() -> Iterator[Server]:
    with serving("http") as server:
        yield server


def test_a_ping_goes_to_its_address_with_the_end_of_the_report(
    http: Server, tmp_path: Path
):
    address = f"http://127.0.0.1:{http.port}/ping/SECRET/?create=1"
    web.ping(Url(address), "/start", "", 5)
    file = password_file(tmp_path, f"{address}\n")
    web.ping(Url(path=str(file)), "/fail", "x" * 20_000 + "end ä\udcff", 5)
    first, second = http.requests
    assert (first.method, first.path) == ("POST", "/ping/SECRET/start?create=1")
    assert second.path == "/ping/SECRET/fail?create=1"
    assert len(second.body) == web.LONGEST_REPORT
    assert second.body.endswith("end ä\\udcff".encode())
    for status in (404, 500, 302):
        http.status = status
        with pytest.raises(BackupError) as caught:
            web.ping(Url(address), "", "", 5)
        assert caught.value.message == f"127.0.0.1 answered with status {status}"
    assert len(http.requests) == 5, "no redirection is followed"
    file.write_text("not an address\n")
    with pytest.raises(BackupError, match="is no address"):
        web.ping(Url(path=str(file)), "", "", 5)
    file.chmod(0o644)
    with pytest.raises(BackupError, match="accessible to others"):
        web.ping(Url(path=str(file)), "", "", 5)


def test_a_server_that_does_not_answer_or_proves_no_identity_is_a_failure(
    http: Server, tmp_path: Path
):
    http.status = 0
    with pytest.raises(BackupError, match="127.0.0.1: timed out"):
        web.ping(Url(f"http://127.0.0.1:{http.port}/"), "", "", 0.2)
    with pytest.raises(BackupError, match="127.0.0.1 cannot be reached: .*refused"):
        web.ping(Url("http://127.0.0.1:1/SECRET"), "", "", 5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "pem").write_text(CERTIFICATE)
    context.load_cert_chain(tmp_path / "pem")
    with serving("http", context) as server:
        with pytest.raises(
            BackupError, match="cannot be reached: .*CERTIFICATE_VERIFY"
        ):
            web.ping(Url(f"https://127.0.0.1:{server.port}/SECRET"), "", "", 5)
        assert not server.requests


def test_a_mail_reaches_a_server_and_a_refusal_is_named():
    with serving("smtp") as server:
        host = f"127.0.0.1:{server.port}"
        mail = Mail(("root", "me@example.org"), "backup@laptop", host)
        mails.send_mail(mail, MESSAGE, NOW, 5)
        (letter,) = server.letters
        assert letter.recipients == ["root", "me@example.org"]
        assert letter.sender == "backup@laptop"
        text = letter.text.replace(b"\r\n..", b"\r\n.")
        read = email.message_from_bytes(text, policy=email.policy.default)
        assert read["Subject"] == MESSAGE.title
        assert read["Auto-Submitted"] == "auto-generated"
        assert read.get_content().replace("\r\n", "\n").startswith(MESSAGE.text)
        with pytest.raises(BackupError, match=f"{host}: .*no such user"):
            mails.send_mail(Mail(("refused@x",), "", host), MESSAGE, NOW, 5)
    with pytest.raises(BackupError, match=f"{host}: .*refused"):
        mails.send_mail(mail, MESSAGE, NOW, 5)


def test_a_password_goes_to_a_server_that_is_here_or_offers_tls(tmp_path: Path):
    file = password_file(tmp_path, "very secret\n")
    with serving("smtp") as server:

        def send(host: str, user: str = "me") -> None:
            mail = Mail(("root",), "", f"{host}:{server.port}", user, str(file))
            mails.send_mail(mail, MESSAGE, NOW, 5)

        send("127.0.0.1")
        assert server.logins == [("me", "very secret")] and len(server.letters) == 1
        with pytest.raises(BackupError, match="127.1:.* offers no TLS, so it gets no"):
            send("127.1")  # another name of this machine
        for user, host in (("\u00e4", "127.0.0.1"), ("me", "a..b")):
            with pytest.raises(BackupError, match=f"^{host}:"):
                send(host, user)
        assert len(server.logins) == 1 and len(server.letters) == 1


def test_a_mail_goes_to_sendmail_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = f'echo "$@" >{tmp_path}/words\ncat >{tmp_path}/mail'
    program = script(tmp_path / "sendmail", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    mails.send_mail(Mail(("root", "me@host")), MESSAGE, NOW, 5)
    assert (tmp_path / "words").read_text() == "-i -- root me@host\n"
    assert "\nFrom: root\n" in "\n" + (tmp_path / "mail").read_text()
    script(program, "echo 'queue is full' >&2\nexit 75")
    with pytest.raises(BackupError, match="sendmail failed with .*: queue is full"):
        mails.send_mail(Mail(("root",)), MESSAGE, NOW, 5)


def test_all_are_told_at_once_and_each_failure_is_alone(
    http: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    good = Url(f"http://127.0.0.1:{http.port}/hook")
    notifiers = Notifiers(ping=Url("http://127.0.0.1:1/"), webhook=good)
    results = notify.send_test(notifiers, NOW)
    assert [*results] == ["ping", "webhook"]
    assert results["webhook"] is None
    assert results["ping"] and "refused" in results["ping"].message
    monkeypatch.setattr(notify, "LIMIT_S", 0.2)
    slow = script(tmp_path / "slow", "exec sleep 60")
    late = notify.send_test(Notifiers(command=(str(slow),)), NOW)["command"]
    assert late and "within 0.2 s" in late.message
    document = json.loads(http.requests[0].body)
    assert http.requests[0].headers["content-type"] == "application/json"
    assert document["title"].endswith(": a test") and document["notices"] == []


def test_the_address_of_a_webhook_may_stand_in_a_file(http: Server, tmp_path: Path):
    file = password_file(tmp_path, f"http://127.0.0.1:{http.port}/SECRET\n")
    results = notify.send_test(Notifiers(webhook=Url(path=str(file))), NOW)
    assert results == {"webhook": None} and http.requests[0].path == "/SECRET"


def test_only_the_kinds_that_are_asked_for_are_sent(http: Server, tmp_path: Path):
    url = Url(f"http://127.0.0.1:{http.port}/")
    stale = Trouble(NoticeKind.STALE, USB, "old")
    progress = Progress(enabled_line=False)
    session = Session(NOW, Connections(), "", progress, Turns())
    for kind in NoticeKind:
        notifiers = Notifiers(frozenset({kind}), webhook=url)
        messages = notify.RunMessages(notifiers, str(tmp_path / kind.value), session)
        messages.finish(RunSight((*SIGHT.troubles, stale)), 10, "")
    kinds = [json.loads(request.body)["notices"] for request in http.requests]
    assert [[one["kind"] for one in some] for some in kinds] == [["failure"], ["stale"]]


def test_runs_side_by_side_send_a_message_once(tmp_path: Path):
    found: list[int] = []

    def run() -> None:
        notices = Claims(str(tmp_path)).claim(SIGHT, frozenset(NoticeKind), NOW)
        found.append(len(notices))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0] * 7 + [1]


def test_a_message_that_could_not_be_sent_is_due_again(tmp_path: Path):
    def claim(sight: RunSight) -> tuple[Claims, list[NoticeKind]]:
        memory = Claims(str(tmp_path))
        found = memory.claim(sight, frozenset(NoticeKind), NOW)
        return memory, [notice.kind for notice in found]

    memory, kinds = claim(SIGHT)
    memory.give_back()
    assert kinds == claim(SIGHT)[1] == [NoticeKind.FAILURE]
    good = RunSight(good=((NoticeKind.FAILURE, USB),))
    memory, kinds = claim(good)
    memory.give_back()
    assert kinds == claim(good)[1] == [NoticeKind.RECOVERY]
    assert claim(good)[1] == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 1, "troubles": [{}]}'])
def test_a_damaged_record_is_made_again(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    (tmp_path / NOTICES).write_bytes(content)
    for count in (1, 0):
        memory = Claims(str(tmp_path))
        assert len(memory.claim(SIGHT, frozenset(NoticeKind), NOW)) == count
    assert caplog.text.count("is made again") == 1
    (tmp_path / NOTICES).unlink()
    (tmp_path / NOTICES).mkdir()
    assert len(Claims(str(tmp_path)).claim(SIGHT, frozenset(NoticeKind), NOW)) == 1
    assert "cannot be written" in caplog.text


#: Of a server that says it is 127.0.0.1; no authority signed it.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBjzCCATagAwIBAgIURQIWpAKoRuZiEH9sVIjuAKi/5rUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyOTAyMTQzOVoYDzIxMjYxMTA1
MDIxNDM5WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQiYUDyl9F8FsbkZ4/h/WsLQdjJzCqwA3Sn4E5qvXZQ5A/A0ZNlbw7d
Zm/TtdSmLy7ZJuy7tcO2SBFMghyG1+wXo2QwYjAdBgNVHQ4EFgQUbWpNxuTMxEAo
6RZ8PMlmaz3nUn8wHwYDVR0jBBgwFoAUbWpNxuTMxEAo6RZ8PMlmaz3nUn8wDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0cAMEQC
IBQlKBHZoRKIUmL39Qn7echEptfC/wtK6Upu8fi2cOYiAiAxAf7TOUN10eQtaSMR
nELnexklQ5Lcv+XtaRQKQYypuA==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0UzTrncCniO46wbh
WTFH9O9bBfHT7Q+pA6od7Xo8KH+hRANCAAQiYUDyl9F8FsbkZ4/h/WsLQdjJzCqw
A3Sn4E5qvXZQ5A/A0ZNlbw7dZm/TtdSmLy7ZJuy7tcO2SBFMghyG1+wX
-----END PRIVATE KEY-----
"""
