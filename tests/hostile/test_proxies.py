"""Proxies by the variables that every program on a host follows, and none where those say so."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agent.errors import ImageUnavailable
from agent.guest.image import ImageStore
from state.ids import Digest
from state.spec.resolved import ImageSpec
from tests.hostile.servers import Turn, misbehaving

CONTENT = bytes(range(256)) * 4096
DIGEST = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
FAR = "http://images.invalid/disk.raw"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the tests may have a proxy of their own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path)


def wanted(url: str) -> ImageSpec:
    return ImageSpec("far", url, DIGEST, format="raw")


async def fetched(store: ImageStore, url: str) -> bytes:
    return (await store.fetch(wanted(url), lambda _: None)).path.read_bytes()


async def test_a_proxy_is_asked_for_the_whole_address(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: trust no environment. The host has no other way out then."""
    async with misbehaving(CONTENT) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert await fetched(store, FAR) == CONTENT
        assert proxy.targets == [f"GET {FAR}"]


async def test_what_is_encrypted_goes_through_it_unread(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with misbehaving(CONTENT) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ImageUnavailable, match=r"^fetching https://images.invalid/disk.raw: "):
            await fetched(store, FAR.replace("http:", "https:"))
        assert proxy.targets == ["CONNECT images.invalid:443"]


async def test_none_is_asked_for_what_needs_none(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with misbehaving(b"a page of the proxy") as proxy, misbehaving(CONTENT) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1,.example")
        assert await fetched(store, server.url) == CONTENT
        assert proxy.targets == []


async def test_a_proxy_that_is_not_there_is_named(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with misbehaving(CONTENT) as proxy:
        where = proxy.url.removesuffix("/image.raw")
    monkeypatch.setenv("http_proxy", where)
    with pytest.raises(ImageUnavailable, match=r"^fetching http://images.invalid/disk.raw: ") as no:
        await fetched(store, FAR)
    assert where.rpartition(":")[2] in str(no.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_password_of_a_proxy_is_told_to_it_alone(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Sabotage: pass on what the library says of the address of a proxy."""
    async with misbehaving(b"", Turn(status="407 Proxy Authentication Required")) as proxy:
        where = proxy.url.removesuffix("/image.raw").replace("//", "//agent:SECRET@")
        monkeypatch.setenv(f"{scheme}_proxy", where)
        with pytest.raises(
            ImageUnavailable, match=r": the (proxy|server) says 407 Proxy"
        ) as refused:
            await fetched(store, FAR.replace("http:", f"{scheme}:"))
        assert "SECRET" not in str(refused.value)
        assert proxy.asked[0]["proxy-authorization"].startswith("Basic ")
    for wrong in (
        "http://agent:SECRET@[::1",
        "http://agent:SECRET@127.0.0.1:abc",
        "agent:SECRET@127.0.0.1:9",
    ):
        monkeypatch.setenv(f"{scheme}_proxy", wrong)
        with pytest.raises(
            ImageUnavailable, match="or a proxy of the environment is no"
        ) as refused:
            await fetched(store, FAR.replace("http:", f"{scheme}:"))
        assert "SECRET" not in str(refused.value)
