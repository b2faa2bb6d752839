"""A mail, by the program ``sendmail`` of this machine or by an SMTP server."""

import os
import pwd
import smtplib
import ssl
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.core.notices import Message
from btrfs_backup_ng.core.notifiers import Mail
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command, Patience, find_program
from btrfs_backup_ng.sshutil.passwords import read_password

#: The port on which TLS begins with the connection.
_TLS_PORT = 465
_HERE = ("localhost", "127.0.0.1", "::1")


def send_mail(mail: Mail, message: Message, now: datetime, limit_s: float) -> None:
    """Send a mail.

    :raises BackupError: if it was not taken.
    """
    written = _write(mail, message, now)
    if mail.host:
        _send_to_server(mail, written, limit_s)
        return
    program = find_program("sendmail")
    if not program:
        raise BackupError(
            "there is no sendmail on this machine",
            hint='Name a server in [notify]:  mail-host = "smtp.example.org"',
        )
    command = Command(
        (program, "-i", "--", *mail.to), "sendmail", patience=Patience(0, limit_s)
    )
    run(command, stdin=written.as_bytes())


def _write(mail: Mail, message: Message, now: datetime) -> EmailMessage:
    name = os.uname().nodename
    user = pwd.getpwuid(os.geteuid()).pw_name
    written = EmailMessage()
    written["From"] = mail.sender or (f"{user}@{name}" if mail.host else user)
    written["To"] = ", ".join(mail.to)
    written["Subject"] = message.title
    written["Date"] = format_datetime(now)
    written["Message-ID"] = make_msgid(domain=name)
    written["Auto-Submitted"] = "auto-generated"
    written.set_content(message.text)
    return written


def _send_to_server(mail: Mail, written: EmailMessage, limit_s: float) -> None:
    """Send a mail to a server, with TLS unless that is this machine.

    A server without TLS gets no password.
    """
    host, port = _split(mail.host)
    context = ssl.create_default_context()
    shown = visible(mail.host)
    try:
        with (
            smtplib.SMTP_SSL(host, port, timeout=limit_s, context=context)
            if port == _TLS_PORT
            else smtplib.SMTP(host, port, timeout=limit_s)
        ) as server:
            server.ehlo_or_helo_if_needed()
            is_secret = port == _TLS_PORT or host in _HERE
            if not is_secret and server.has_extn("starttls"):
                server.starttls(context=context)
                is_secret = True
            if mail.user:
                if not is_secret:
                    raise BackupError(f"{shown} offers no TLS, so it gets no password")
                password = read_password(mail.password_file).decode("utf-8", "replace")
                if not f"{mail.user}{password}".isascii():
                    text = f"{shown}: a name or password has more than ASCII"
                    raise BackupError(text)
                server.login(mail.user, password)
            server.send_message(written, to_addrs=mail.to)
    except (OSError, ValueError, smtplib.SMTPException) as error:
        raise BackupError(f"{shown}: {visible(str(error))}") from error


def _split(host: str) -> tuple[str, int]:
    """Return name and port of a server; 25 without a port."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, int(rest[1:] or 25)
    name, _, port = host.partition(":")
    return name, int(port or 25)
