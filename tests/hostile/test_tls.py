"""Images over TLS: who cannot prove who it is brings nothing in, nor does one that sends us elsewhere in clear.

The command fetches, since the certificates that are trusted are those of its environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import sys
from pathlib import Path

import pytest

from tests.certificates import certified
from tests.hostile.servers import Turn, misbehaving

CONTENT = bytes(range(256)) * 4096
PINNED = f"sha256: '{hashlib.sha256(CONTENT).hexdigest()}'"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return certified(tmp_path)


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def fetched(root: Path, url: str, more: str, trusted: Path | None) -> tuple[int | None, str]:
    """The status of `images fetch`, and what it says."""
    tree = root / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "images.yaml").write_text(
        "api: holdfast/v1\nkind: images\nname: all\nimages:\n"
        f"  one: {{source: '{url}', format: raw, {more}}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "images", "fetch", "--desired", str(tree), "--state", str(root / "state"),
        env=os.environ | ({"SSL_CERT_FILE": str(trusted)} if trusted else {}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_a_certificate_that_nobody_trusts_is_refused(
    tmp_path: Path, certificate: Path, tls: ssl.SSLContext
) -> None:
    """Sabotage: verify nothing."""
    async with misbehaving(CONTENT, tls=tls) as server:
        status, said = await fetched(tmp_path, server.url, PINNED, None)
        assert (status, "certificate verify failed" in said) == (1, True), said
        assert server.asked == []
        status, said = await fetched(tmp_path, server.url, PINNED, certificate)
        assert status == 0, said


async def test_what_goes_on_in_clear_comes_in_only_where_its_digest_is_known(
    tmp_path: Path, certificate: Path, tls: ssl.SSLContext
) -> None:
    """Sabotage: follow every redirect. Whoever stands between then chooses what runs."""
    async with misbehaving(CONTENT) as clear:
        turns = [Turn(location=clear.url)] * 2
        async with misbehaving(b"", *turns, tls=tls) as server:
            status, said = await fetched(tmp_path, server.url, "nocloud: false", certificate)
            assert (status, "redirected from https to http" in said) == (1, True), said
            status, said = await fetched(tmp_path, server.url, PINNED, certificate)
            assert status == 0, said


async def test_a_way_that_leads_back_to_tls_is_no_better(
    tmp_path: Path, certificate: Path, tls: ssl.SSLContext
) -> None:
    """Sabotage: look at where it ends alone. Whoever stands at the part in clear leads to a server of his own."""
    async with (
        misbehaving(CONTENT, tls=tls) as back,
        misbehaving(b"", Turn(location=back.url)) as clear,
        misbehaving(b"", Turn(location=clear.url), tls=tls) as server,
    ):
        status, said = await fetched(tmp_path, server.url, "nocloud: false", certificate)
        assert (status, "redirected from https to http" in said) == (1, True), said


async def test_what_is_gone_on_with_in_clear_counts_as_well(
    tmp_path: Path, certificate: Path, tls: ssl.SSLContext
) -> None:
    """Sabotage: look at the first answer alone. What follows a cut is then anybody's."""
    async with misbehaving(CONTENT) as clear:
        turns = [Turn(cut=300_000), Turn(location=clear.url)]
        async with misbehaving(CONTENT, *turns, tls=tls) as server:
            status, said = await fetched(tmp_path, server.url, "nocloud: false", certificate)
            assert (status, "redirected from https to http" in said) == (1, True), said
            assert len(clear.asked) == 1, "the rest has come from there"
