"""Messages to servers: a ping at the begin and the end of a run, and a webhook.

Certificates are checked. A server that sends the message elsewhere gets an error.
"""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from btrfs_backup_ng import PROGRAM, __version__
from btrfs_backup_ng.__util__ import KIB, BackupError, visible
from btrfs_backup_ng.core.notifiers import Url, is_url
from btrfs_backup_ng.sshutil.passwords import read_password

#: The end of a report that a ping carries.
LONGEST_REPORT = 10 * KIB


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a message is for the server that is named."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


def ping(url: Url, suffix: str, report: str, limit_s: float) -> None:
    """Ping a server about a run.

    :param suffix: of the path: ``/start``, ``/fail``, or "" for a success.
    :param report: the end of it is the body.
    :raises BackupError: if the server did not take it.
    """
    scheme, host, path, query, _ = urlsplit(_read(url))
    whole = urlunsplit((scheme, host, f"{path.rstrip('/')}{suffix}", query, ""))
    body = report.encode("utf-8", "backslashreplace")[-LONGEST_REPORT:]
    _post(whole, body, "text/plain; charset=utf-8", limit_s)


def call_webhook(url: Url, document: Mapping[str, object], limit_s: float) -> None:
    """Send a document to a webhook.

    :raises BackupError: if the server did not take it.
    """
    body = json.dumps(document).encode("ascii")
    _post(_read(url), body, "application/json", limit_s)


def _read(url: Url) -> str:
    """Return the address itself.

    :raises BackupError: if its file cannot be used.
    """
    if not url.path:
        return url.text
    text = read_password(url.path).decode("utf-8", "replace").strip()
    if not is_url(text):
        raise BackupError(f"the first line of {visible(url.path)} is no address")
    return text


def _post(url: str, body: bytes, kind: str, limit_s: float) -> None:
    """Send a request. Its address may be a secret, so errors name the host only.

    :raises BackupError: if the answer is not a good one.
    """
    headers = {"Content-Type": kind, "User-Agent": f"{PROGRAM}/{__version__}"}
    request = urllib.request.Request(url, body, headers, method="POST")
    context = ssl.create_default_context()
    secure = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(secure, _NoRedirect)
    host = visible(urlsplit(url).hostname or "")
    try:
        with opener.open(request, timeout=limit_s) as answer:
            answer.read(KIB)
    except urllib.error.HTTPError as error:
        with error:
            raise BackupError(f"{host} answered with status {error.code}") from None
    except urllib.error.URLError as error:
        reason = visible(str(error.reason))
        raise BackupError(f"{host} cannot be reached: {reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = visible(str(error)) or type(error).__name__
        raise BackupError(f"{host}: {text}") from None
