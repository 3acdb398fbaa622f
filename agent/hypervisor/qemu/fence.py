"""Keeps guests from the host itself: a table of nftables that lets no QEMU of ours begin a connection to its addresses.

In QEMU's user network the gateway 10.0.2.2 is the host's loopback, and the host sees a connection through it as its
own: what listens on 127.0.0.1 for the host alone, other machines' SSH ports among it, would be every guest's to talk to
(QEMU 7.2 has no switch for that but `restrict`, which takes away the whole network).

The table is one for the host, the same whoever puts it up, and replaced whole. It knows QEMUs by their users, so it
needs root, and users of their own for machines. Connections *into* guests are answered as before, and the resolver that
QEMU asks for its guests is let through. It stays when the agent leaves, since machines run on. What flushes the rules
of the host takes it with them, so it is looked after.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

TABLE = "holdfast"
_PATIENCE = 10.0
_RESOLVERS = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Look:
    """What came of one look at the fence. `done`: what had to be done for it to stand, empty for nothing; `why`: why it
    does not stand, as a sentence part, empty where it does."""

    done: str = ""
    why: str = ""


class Fence:
    """The fence around the processes of these users, as one agent has put it up."""

    def __init__(self, uids: range | None) -> None:
        self._uids = uids
        self._rules: str | None = None
        self._listed: str | None = None

    def look(self) -> Look:
        """Put it up where it does not stand as it was put up, or the host has other resolvers since. Takes nft's time:
        not for an event loop."""
        wanted = None if self._uids is None else rules(self._uids, resolvers(_RESOLVERS))
        stood = listed() if self._rules is not None else None
        if wanted == self._rules and stood is not None and stood == self._listed:
            return Look()
        done = self._reason(wanted, stood)
        why, stands = put_up(self._uids), listed()
        if why is None and wanted is not None and stands is not None and not _whole(stands, wanted):
            # Somebody has changed it in between, and that would be what it is compared with from now on.
            why, stands = put_up(self._uids), listed()
        self._rules = None if why else wanted
        self._listed = None if why else stands
        return Look(why=why) if why else Look(done)

    def _reason(self, wanted: str | None, stood: str | None) -> str:
        if self._rules is None:
            return "it was put up"
        if stood is None:
            return "its table was gone, and was put up again"
        if wanted != self._rules:
            return "the host has other resolvers, and it was put up anew with these"
        return "somebody had changed its table, and it was put up anew"


def put_up(uids: range | None, *, try_only: bool = False) -> str | None:
    """Put the fence up around the processes of these users, or only try whether it could be. Why it cannot be, as a
    sentence part; None where it is."""
    if uids is None and os.geteuid() == 0:
        return (
            "this user namespace maps no range of users for QEMUs, by which a fence would know them"
        )
    if uids is None:
        return "only root can fence off QEMUs, by users of their own"
    return _told(rules(uids, resolvers(_RESOLVERS)), *(["--check"] if try_only else []))


def take_away() -> str | None:
    """Take it away, whoever has put it up. Why that cannot be, as a sentence part; None where none stands now."""
    return _told(f"table inet {TABLE}\ndelete table inet {TABLE}\n")


def listed() -> str | None:
    """The table as nft lists it; None where there is none, or none that this process may see."""
    try:
        done = _nft("list", "table", "inet", TABLE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _whole(listed: str, rules: str) -> bool:
    """Whether what nft lists has as many lines as what it was told, after the two that make way for it; it may have
    other words for them."""
    there, told = (list(filter(str.strip, text.splitlines())) for text in (listed, rules))
    return len(there) == len(told) - 2


def _told(text: str, *options: str) -> str | None:
    """Have nft do what the text says, all of it or nothing. Why it does not; None where it does."""
    try:
        done = _nft(*options, "-f", "-", text=text)
    except FileNotFoundError:
        return "there is no nft (Debian: nftables)"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nft does not run: {error}"
    if done.returncode:
        said = next(iter(done.stderr.splitlines()), f"status {done.returncode}")
        return f"nft refuses: {said}"
    return None


def _nft(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nft", *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


def rules(uids: range, asked: Sequence[IPv4Address | IPv6Address]) -> str:
    """What nft(8) reads. Whatever goes to an address of the host leaves by `lo`, whichever address that is."""
    spared = "".join(
        f"    {'ip' if one.version == 4 else 'ip6'} daddr {one} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
        for one in asked
    )
    return f"""\
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain guests {{
{spared}    reject
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "lo" meta skuid {uids[0]}-{uids[-1]} ct state new jump guests
  }}
}}
"""


def resolvers(configured: Path) -> list[IPv4Address | IPv6Address]:
    """The servers that resolv.conf(5) names."""
    try:
        lines = configured.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: list[IPv4Address | IPv6Address] = []
    for words in (line.split() for line in lines):
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue
    return found
