"""Telling a channel: a line in a log, a POST, a mail. One attempt with a timeout; who calls tries again at the next look."""

import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any

from analytics_assets.alerts.declared import Channel, EmailChannel, LogChannel, WebhookChannel
from analytics_assets.alerts.journal import Message


class Undelivered(Exception):
    """A channel could not be told, and why; never with a secret in it."""


def tell(channel: Channel, message: Message, log: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Tell `message` to a channel. Raises Undelivered."""
    secrets: list[str] = []

    def secret(variable: str) -> str:
        value = environment.get(variable, "")
        if not value:
            raise Undelivered(f"the environment variable {variable} is not set")
        secrets.append(value)
        return value

    try:
        if isinstance(channel, LogChannel):
            _write(log, message)
        elif isinstance(channel, WebhookChannel):
            url = channel.url or secret(str(channel.url_from))
            if not url.startswith(("http://", "https://")):
                raise Undelivered(f"what {channel.url_from} holds is no address; begin it with https://")
            _post(url, secret(channel.token_from) if channel.token_from else None, message, channel.timeout_seconds)
        else:
            user = (secret(channel.user_from), secret(str(channel.password_from))) if channel.user_from else None
            _mail(channel, user, message)
    except (OSError, HTTPException, smtplib.SMTPException, ValueError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        for value in secrets:
            said = said.replace(value, "***")
        # The chain would show what `said` hides.
        raise Undelivered(said) from None


def _write(log: Path, message: Message) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{message.at:%Y-%m-%d %H:%M:%S} {' | '.join(message.text.splitlines())}\n")
        file.flush()
        os.fsync(file.fileno())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its content, and count as told."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _post(url: str, token: str | None, message: Message, timeout: float) -> None:
    first = message.alerts[0]
    content = {
        "id": message.id,
        "event": message.event,
        "text": message.text,
        "rule": first.rule,
        "severity": first.severity,
        "tenants": message.tenants,
        "since": min(alert.since for alert in message.alerts).isoformat(),
        "cause": first.cause,
        "runbook": first.runbook,
    }
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(content).encode(), headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
        if answer.status >= 300:
            raise OSError(f"answered {answer.status}")


def _mail(channel: EmailChannel, user: tuple[str, str] | None, message: Message) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = message.title, channel.sender, ", ".join(channel.to)
    mail["Message-ID"] = f"<{message.id}@{channel.sender.partition('@')[2]}>"
    mail.set_content(message.text)
    with smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_seconds) as server:
        if channel.starttls:
            server.starttls(context=ssl.create_default_context())
        if user:
            server.login(*user)
        server.send_message(mail)
