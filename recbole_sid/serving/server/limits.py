"""What one request may ask for, and how long anything may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from recbole_sid.errors import InputError


@dataclass(frozen=True)
class Limits:
    """The server's bounds; a request beyond one gets one sentence that names it.

    Attributes:
        max_batch: histories that are ranked together.
        batch_wait: milliseconds that a batch may wait for more histories while nothing is being ranked. What arrives
            while a batch is being ranked waits for the next anyway, so 0 costs little throughput and no latency.
        max_waiting: histories that wait at once, over all batches to come; more are refused (503).
        timeout: seconds until an answer is given up (504), and that a client may take to send its body (408).
        max_body: bytes of a request's body.
        max_users: histories or users of one request.
        max_k: items of one list.
        max_history: items of one history.
        max_items: items in an allow-list, or to leave out for one user.
        max_explained: items of one request for explanations.
    """

    max_batch: int = 32
    batch_wait: float = 0.0
    max_waiting: int = 2048
    timeout: float = 10.0
    max_body: int = 1 << 20
    max_users: int = 256
    max_k: int = 1000
    max_history: int = 1000
    max_items: int = 10_000
    max_explained: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            least, value = 0 if field.name == "batch_wait" else 1e-9, getattr(self, field.name)
            if not least <= value < float("inf"):
                raise InputError(f"{field.name}={value} must be {'0 or more' if least == 0 else 'more than 0'}.")
        if self.max_waiting < self.max_users:
            raise InputError(f"max_waiting={self.max_waiting} must be at least max_users={self.max_users}.")
