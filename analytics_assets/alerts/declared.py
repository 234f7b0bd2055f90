"""What may be declared of alerts: channels, and which severity goes where. Secrets are named, never given."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from analytics_assets.alerts.problems import Severity
from analytics_assets.settings import ConfigError, Declared, line_of, read_yaml

_VARIABLE = r"^[A-Z][A-Z0-9_]*$"


class _Channel(Declared):
    timeout_seconds: float = Field(5, gt=0, le=60, description="Seconds after which a receiver counts as dead for this look.")


class LogChannel(_Channel):
    """A line each in `alerts.log` of the data home."""

    kind: Literal["log"]


class WebhookChannel(_Channel):
    """A POST of JSON, which chats read by its `text`."""

    kind: Literal["webhook"]
    url: str | None = Field(None, description="Address, where it holds no secret.")
    url_from: str | None = Field(None, pattern=_VARIABLE, description="Environment variable with the address.")
    token_from: str | None = Field(None, pattern=_VARIABLE, description="Environment variable with a bearer token.")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"'{value}' is no address; begin it with https://")
        return value

    @model_validator(mode="after")
    def _one_address(self) -> "WebhookChannel":
        if (self.url is None) == (self.url_from is None):
            raise ValueError("say where to: either url or url_from")
        return self


class EmailChannel(_Channel):
    """A mail by SMTP."""

    kind: Literal["email"]
    host: str = Field(min_length=1)
    port: int = Field(587, ge=1, le=65535)
    starttls: bool = Field(True, description="Encrypt before anything is said.")
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = Field(min_length=1)
    user_from: str | None = Field(None, pattern=_VARIABLE, description="Environment variable with the user.")
    password_from: str | None = Field(None, pattern=_VARIABLE, description="Environment variable with the password.")

    @model_validator(mode="after")
    def _keeps_its_password(self) -> "EmailChannel":
        if (self.user_from is None) != (self.password_from is None):
            raise ValueError("user_from and password_from belong together; give both or none")
        if self.password_from is not None and not self.starttls:
            raise ValueError("a password would be sent in the clear; set starttls to true")
        return self


Channel = Annotated[LogChannel | WebhookChannel | EmailChannel, Field(discriminator="kind")]


class AlertRules(Declared):
    """The file."""

    FILE: ClassVar[str] = "alerts.yaml"
    # What is told while the file is wrong, and that it is over: a line in the log, which needs no declaration.
    LAST_RESORT: ClassVar[str] = "alerts.log"

    runbooks: str = Field("docs/runbooks", min_length=1, description="Folder or address of the runbooks.")
    channels: dict[str, Channel]
    routes: dict[Severity, tuple[str, ...]]

    @classmethod
    def last_resort(cls) -> "AlertRules":
        """What holds while the file is wrong."""
        return cls(channels={}, routes={"warn": (cls.LAST_RESORT,), "page": (cls.LAST_RESORT,)})

    @property
    def every_channel(self) -> Mapping[str, Channel]:
        return {self.LAST_RESORT: LogChannel(kind="log"), **self.channels}

    def faults(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(place, sentence) of what does not fit together."""
        for severity in ("warn", "page"):
            if severity not in self.routes:
                yield ("routes",), f"nobody is told of '{severity}'; name its channels, or [] for none"
        for severity, names in self.routes.items():
            for name in names:
                if name not in self.channels:
                    known = ", ".join(sorted(self.channels)) or "none"
                    yield ("routes", severity), f"there is no channel '{name}'; declared are {known}"


def load_alert_rules(path: Path) -> AlertRules:
    """Read the declarations. Raises ConfigError."""
    declared: AlertRules = AlertRules.load(path)
    for place, sentence in declared.faults():
        raise ConfigError(f"{path.name}:{line_of(read_yaml(path)[1], place)}: {sentence}")
    return declared
