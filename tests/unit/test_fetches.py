"""Images on their way: asked for once, waited for with a reason, and asked for anew once that may help."""

from __future__ import annotations

from dataclasses import replace

from agent.backoff import failed
from agent.fetches import HOW_FAR_EVERY, Fetches
from state.observed import Observed, Retry, image_key
from state.spec.resolved import ImageSpec
from tests.builders import BASE, IMAGE, moment, vm, wanted

WEB = wanted(vm("web"))[vm("web").name]
OTHER = replace(IMAGE, label="other", source="https://images.example/other.qcow2")
NOW = moment()


def in_vain(image: ImageSpec = IMAGE) -> dict[str, Retry]:
    key = image_key(image)
    return {key: failed(Retry(key), "fetching it: the server says 404", moment(999.9))}


def test_an_image_that_is_there_is_not_waited_for_and_not_asked_for() -> None:
    fetches = Fetches(Observed(images={IMAGE: BASE}), NOW)
    assert fetches.missing(IMAGE) is None
    assert fetches.wait(WEB) is None
    assert fetches.asked == ()


def test_an_image_that_is_missing_is_asked_for_once_in_the_order_of_asking() -> None:
    fetches = Fetches(Observed(), NOW)
    assert fetches.missing(IMAGE) == IMAGE
    assert fetches.wait(WEB) is None
    assert fetches.ask_for(OTHER) is None
    assert fetches.ask_for(IMAGE) is None
    assert fetches.asked == (IMAGE, OTHER)


def test_an_image_on_its_way_is_waited_for_and_not_asked_for_again() -> None:
    fetches = Fetches(Observed(fetching={IMAGE: "37%"}), NOW)
    wait = fetches.wait(WEB)
    assert wait is not None
    assert (wait.reason, wait.because) == (
        "FetchingImage", "image debian-12 is on its way: 37%",
    )  # fmt: skip
    assert (wait.source, wait.until) == (WEB.source, HOW_FAR_EVERY)
    assert fetches.ask_for(IMAGE) is None
    assert fetches.asked == ()


def test_an_image_that_cannot_be_had_is_waited_for_with_the_reason_and_the_time() -> None:
    fetches = Fetches(Observed(retries=in_vain()), NOW)
    wait = fetches.wait(WEB)
    assert wait is not None
    assert wait.reason == "ImageUnavailable"
    assert wait.because == "fetching it: the server says 404; tried once so far"
    assert wait.until is not None
    assert 0.8 < wait.until <= 1.0
    assert fetches.asked == ()
    assert Fetches(Observed(retries=in_vain()), moment(1001.2)).wait(WEB) is None


def test_a_corrected_digest_is_asked_for_at_once() -> None:
    """Sabotage: remember failures by the source alone. A person who mends the image map then waits for minutes."""
    wrong = replace(IMAGE, digest=None)
    fetches = Fetches(Observed(retries=in_vain(wrong)), NOW)
    assert fetches.wait(WEB) is None
    assert fetches.asked == (IMAGE,)
