"""Fetches from servers that cut, stall, lie, redirect and change their minds: the whole image, or one sentence."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest

from agent.errors import ImageUnavailable
from agent.guest.http import CUTS, proof_of
from agent.guest.image import ImageStore
from state.ids import Digest
from state.spec.resolved import ImageSpec
from tests.hostile.servers import Server, Turn, misbehaving
from tests.waiting import eventually

CONTENT = random.Random(1).randbytes(16_000_000)  # noqa: S311 - the same each time
DIGEST = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
LONG_AGO = {
    "Last-Modified": "Sun, 01 Nov 2020 10:00:00 GMT",
    "Date": "Sun, 01 Nov 2020 11:00:00 GMT",
}
JUST_NOW = {**LONG_AGO, "Date": "Sun, 01 Nov 2020 10:00:59 GMT"}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.guest.http.PAUSE", 0.001)


def wanted(server: Server, digest: Digest | None = DIGEST) -> ImageSpec:
    return ImageSpec("tiny", server.url, digest, format="raw")


async def fetched(store: ImageStore, image: ImageSpec) -> bytes:
    return (await store.fetch(image, lambda _: None)).path.read_bytes()


async def leaves_nothing(store: ImageStore, image: ImageSpec, directory: Path) -> None:
    assert await store.look([image]) == {}
    await eventually(
        lambda: [one for one in directory.rglob("*") if one.is_file()] == [], "nothing is left"
    )


@pytest.mark.parametrize("digest", [DIGEST, None])
async def test_what_is_cut_again_and_again_is_gone_on_with(
    tmp_path: Path, digest: Digest | None
) -> None:
    """Sabotage: ask for the rest from a byte too early."""
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, *(Turn(cut=5_000_000) for _ in range(3))) as server:
        assert await fetched(store, wanted(server, digest)) == CONTENT
        whole, *rest = map(begins, server.ranges)
        assert whole == 0
        assert rest == sorted(rest)
        assert len(rest) >= 3
        assert all(at > 0 for at in rest)
        assert {one["if-range"] for one in server.asked[1:]} == {'"one"'}


def begins(asked: str | None) -> int:
    """The byte that was asked for first."""
    return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0


async def test_a_server_that_stands_still_is_asked_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.guest.http.SILENCE_TIMEOUT", 0.2)
    async with misbehaving(CONTENT, Turn(cut=1_000_000, stalls=True)) as server:
        assert await fetched(ImageStore(tmp_path), wanted(server)) == CONTENT
        assert server.ranges == [None, "bytes=1000000-"]  # nothing was lost: it was silent
        await eventually(lambda: server.left == 1, "it was left")


async def test_a_server_that_is_briefly_unwell_is_asked_again(tmp_path: Path) -> None:
    turns = Turn(cut=50), Turn(status="503 Service Unavailable"), Turn(status="502 Bad Gateway")
    async with misbehaving(CONTENT, *turns) as server:
        assert await fetched(ImageStore(tmp_path), wanted(server)) == CONTENT


async def test_one_that_sends_nothing_any_more_is_given_up(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, Turn(cut=10), *(Turn(cut=0) for _ in range(99))) as server:
        with pytest.raises(ImageUnavailable, match=r"^fetching .*/image.raw: "):
            await fetched(store, wanted(server))
        assert len(server.asked) == 1 + CUTS
        await leaves_nothing(store, wanted(server), tmp_path)


@pytest.mark.parametrize("digest", [DIGEST, None])
async def test_other_content_is_never_put_behind_what_has_come(
    tmp_path: Path, digest: Digest | None
) -> None:
    """Sabotage: leave out If-Range. Without a digest that would be an image of two halves."""
    store = ImageStore(tmp_path)
    other = CONTENT[::-1]
    async with misbehaving(CONTENT, Turn(cut=1_000_000, then=other)) as server:
        with pytest.raises(ImageUnavailable, match="has something else there now"):
            await fetched(store, wanted(server, digest))
        assert len(server.asked) == 2
        await leaves_nothing(store, wanted(server, digest), tmp_path)
        assert await fetched(store, wanted(server, None)) == other


async def test_a_server_that_trickles_is_left_and_given_up_when_it_goes_on_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: wait while anything comes. A byte a minute then holds up a machine for ever, and says nothing."""
    monkeypatch.setattr("agent.guest.http.SILENCE_TIMEOUT", 0.2)
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, Turn(cut=1_000_000, trickles="body")) as server:
        assert await fetched(store, wanted(server)) == CONTENT
        await eventually(lambda: server.left == 1, "it was left")
        assert begins(server.ranges[1]) > 1_000_000
    async with misbehaving(CONTENT[::-1], *[Turn(cut=0, trickles="body")] * 99) as server:
        with pytest.raises(ImageUnavailable, match=r": it sent \d+ bytes in 0 s$"):
            await fetched(store, wanted(server))
        assert len(server.asked) == 1 + CUTS


async def test_an_answer_that_does_not_begin_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: wait while anything comes."""
    monkeypatch.setattr("agent.guest.http.ANSWER_TIMEOUT", 0.3)
    async with misbehaving(CONTENT, Turn(trickles="answer")) as server:
        with pytest.raises(ImageUnavailable, match=r"/image.raw: no answer within 0 s$"):
            await fetched(ImageStore(tmp_path), wanted(server))
        await eventually(lambda: server.left == 1, "it was left")


async def test_a_part_of_the_rest_is_not_taken_for_its_end(tmp_path: Path) -> None:
    """Sabotage: forget what a Content-Range says of the whole. Nobody knew how long that is."""
    store = ImageStore(tmp_path)
    turns = Turn(cut=5_000_000, framing="chunked"), Turn(part=2_000_000), Turn(part=2_000_000)
    async with misbehaving(CONTENT, *turns) as server:
        assert await fetched(store, wanted(server, None)) == CONTENT
        assert begins(server.ranges[-1]) == begins(server.ranges[1]) + 4_000_000


async def test_a_server_that_knows_no_conditions_puts_nothing_behind_what_has_come(
    tmp_path: Path,
) -> None:
    """Sabotage: believe that who answers 206 has compared."""
    store = ImageStore(tmp_path)
    turns = Turn(cut=5_000_000, then=CONTENT[::-1]), Turn(ignores_conditions=True)
    async with misbehaving(CONTENT, *turns) as server:
        with pytest.raises(ImageUnavailable, match="is not the rest"):
            await fetched(store, wanted(server, None))
        await leaves_nothing(store, wanted(server, None), tmp_path)


async def test_what_has_no_end_of_its_own_comes_in_only_where_its_digest_is_known(
    tmp_path: Path,
) -> None:
    """Sabotage: take the end of a connection for the end of an image. Half of one boots, too."""
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, Turn(cut=5_000_000, framing="close")) as server:
        with pytest.raises(ImageUnavailable, match=r"does not say where it ends.*write its sha256"):
            await fetched(store, wanted(server, None))
        server.turns = [Turn(framing="chunked"), Turn(framing="close")]
        assert await fetched(store, wanted(server, None)) == CONTENT
        assert await fetched(ImageStore(tmp_path), wanted(server)) == CONTENT
        assert len(server.asked) == 3


@pytest.mark.parametrize("turn", [Turn(ignores_ranges=True), Turn(shift=1), Turn(shift=-1)])
async def test_a_rest_that_does_not_begin_where_it_ended_is_refused(
    tmp_path: Path, turn: Turn
) -> None:
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, Turn(cut=1_000_000), turn) as server:
        with pytest.raises(ImageUnavailable, match=r"begins anew|is not the rest"):
            await fetched(store, wanted(server, None))
        await leaves_nothing(store, wanted(server, None), tmp_path)


@pytest.mark.parametrize(
    ("tag", "headers", "goes_on"),
    [
        ('W/"weak"', {}, False),
        (None, {}, False),
        (None, LONG_AGO, True),
        (None, JUST_NOW, False),
        (None, {"Last-Modified": "once", "Date": "now"}, False),
        ('W/"weak"', LONG_AGO, True),
    ],
)
async def test_only_what_proves_to_be_the_same_is_gone_on_with(
    tmp_path: Path, tag: str | None, headers: dict[str, str], goes_on: bool
) -> None:
    assert (proof_of({**headers, **({"ETag": tag} if tag else {})}) is not None) is goes_on
    async with misbehaving(CONTENT, Turn(cut=1_000_000)) as server:
        server.tag, server.headers = tag, headers
        store = ImageStore(tmp_path)
        if tag is None and goes_on:
            assert await fetched(store, wanted(server)) == CONTENT
        elif not goes_on:
            with pytest.raises(ImageUnavailable):
                await fetched(store, wanted(server))
            assert server.ranges == [None]


async def test_a_length_that_is_a_lie_brings_nothing_in(tmp_path: Path) -> None:
    """Too long by one, the last byte never comes; too short by one, the digest shows it."""
    store = ImageStore(tmp_path)
    for lie, why in ((1, "is not the rest|the server says 416"), (-1, "its digest is sha256:")):
        async with misbehaving(CONTENT, Turn(longer=lie)) as server:
            with pytest.raises(ImageUnavailable, match=why):
                await fetched(store, wanted(server))
            await leaves_nothing(store, wanted(server), tmp_path)


async def test_redirects_are_followed_to_servers_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    store = ImageStore(tmp_path / "images")
    (tmp_path / "images").mkdir()
    async with misbehaving(CONTENT) as there, misbehaving(b"", Turn(location=there.url)) as here:
        assert await fetched(store, wanted(here)) == CONTENT
        for location in (f"file://{secret}", here.url):
            here.turns = [Turn(location=location)] * 99
            with pytest.raises(ImageUnavailable, match=r"^fetching "):
                await fetched(store, wanted(here, None))


async def test_bytes_are_taken_as_they_come_whatever_a_server_calls_them(tmp_path: Path) -> None:
    """Sabotage: have the library undo a coding, or ask for one. The digest is that of the file that is there."""
    packed = gzip.compress(CONTENT[:1_000_000], mtime=0)
    digest = Digest(f"sha256:{hashlib.sha256(packed).hexdigest()}")
    async with misbehaving(packed) as server:
        server.headers = {"Content-Encoding": "gzip"}
        image = ImageSpec("tiny", server.url, digest, decompress="gzip", format="raw")
        assert await fetched(ImageStore(tmp_path), image) == CONTENT[:1_000_000]
        assert server.asked[0]["accept-encoding"] == "identity"


SIGNED = "?X-Signature=SECRET"


async def test_where_a_redirect_led_is_not_told_and_what_a_server_says_is_short_and_harmless(
    tmp_path: Path,
) -> None:
    """Sabotage: pass on what the library says. What stands in a status is read by many, and kept."""
    store = ImageStore(tmp_path)
    noisy = Turn(status="404 \x1b[31m\x07" + "A" * 4000)
    async with misbehaving(b"", *[noisy] * 9) as there, misbehaving(b"") as here:
        for location in (
            there.url + SIGNED, f"file:///etc/passwd{SIGNED}", f"http://[::1/{SIGNED}", here.url + SIGNED,
            f"http://a..b/{SIGNED}", f"http://user:SECRET@127.0.0.1:1/{SIGNED}",
        ):  # fmt: skip
            here.turns = [Turn(location=location)] * 99
            with pytest.raises(ImageUnavailable, match=r"^fetching ") as refused:
                await fetched(store, wanted(here, None))
            said = str(refused.value)
            assert "SECRET" not in said
            assert said.isprintable()
            assert len(said) < 400


async def test_passwords_of_the_operator_go_to_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: leave it to the library, which looks into ~/.netrc where it is to look for proxies."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login operator password SECRET\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    (tmp_path / "images").mkdir()
    async with misbehaving(CONTENT) as there:
        to = there.url.replace("//", "//somebody:else@")
        async with misbehaving(b"", Turn(location=to)) as here:
            assert await fetched(ImageStore(tmp_path / "images"), wanted(here)) == CONTENT
        for server in (here, there):
            assert [set(one) & {"authorization", "cookie"} for one in server.asked] == [set()]


async def test_a_redirect_is_followed_again_for_the_rest(tmp_path: Path) -> None:
    """A server of redirects may send everybody elsewhere each time; what is there proves itself."""
    async with misbehaving(CONTENT, Turn(cut=5_000_000)) as one, misbehaving(CONTENT) as two:
        turns = Turn(location=one.url), Turn(location=two.url)
        async with misbehaving(b"", *turns) as here:
            assert await fetched(ImageStore(tmp_path), wanted(here)) == CONTENT
            assert two.asked[0]["if-range"] == one.tag
            assert begins(two.ranges[0]) > 0


async def test_a_circle_of_redirects_has_an_end(tmp_path: Path) -> None:
    async with misbehaving(b"") as one, misbehaving(b"") as two:
        one.turns, two.turns = [Turn(location=two.url)] * 99, [Turn(location=one.url)] * 99
        with pytest.raises(ImageUnavailable, match=f"^fetching {one.url}: "):
            await fetched(ImageStore(tmp_path), wanted(one))
        assert len(one.asked) + len(two.asked) < 20


async def test_a_wrong_digest_is_told_beside_the_right_one(tmp_path: Path) -> None:
    store, wrong = ImageStore(tmp_path), Digest("sha512:" + "0" * 128)
    async with misbehaving(CONTENT) as server:
        right = f"sha512:{hashlib.sha512(CONTENT).hexdigest()}"
        with pytest.raises(
            ImageUnavailable, match=f"its digest is {right}, not {wrong} \\(correct"
        ):
            await fetched(store, wanted(server, wrong))
        await leaves_nothing(store, wanted(server, wrong), tmp_path)


async def test_content_that_changes_between_two_fetches_is_another_image(tmp_path: Path) -> None:
    """Sabotage: name a disk by its source. An overlay then stands on what it was not made for."""
    store = ImageStore(tmp_path)
    async with misbehaving(CONTENT, Turn(then=CONTENT[::-1])) as server:
        first = await store.fetch(wanted(server, None), lambda _: None)
        second = await store.fetch(wanted(server, None), lambda _: None)
        assert first.digest != second.digest
        assert (read(first.path), read(second.path)) == (CONTENT, CONTENT[::-1])
        assert await store.look([wanted(server, None)]) == {wanted(server, None): second}


def read(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with misbehaving(CONTENT) as server:
        image = wanted(server)
    with pytest.raises(ImageUnavailable, match=f"^fetching {image.source}: Cannot connect"):
        await fetched(ImageStore(tmp_path), image)
