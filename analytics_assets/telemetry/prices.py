"""The price book: what makes money of processor seconds, memory and bytes. Declared, and marked where it is no bill."""

from decimal import Decimal
from typing import Literal

from pydantic import Field

from analytics_assets.settings import Declared


class Prices(Declared):
    """Prices in one currency. `basis` says whether a bill stands behind them."""

    basis: Literal["assumed", "bill"]
    currency: str = Field(pattern="^[A-Z]{3}$", description="Three letters, as in ISO 4217.")
    processor_hour: Decimal = Field(ge=0, le=1000, description="One processor for an hour.")
    memory_gib_hour: Decimal = Field(ge=0, le=1000, description="One GiB of memory for an hour.")
    moved_gib: Decimal = Field(ge=0, le=1000, description="One GiB that is read or written.")
