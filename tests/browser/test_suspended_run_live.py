"""A suspended run on the web page: it is shown as started, and the button ends it together with its job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from morphseq_dagster.settings.machine import PlacesSettings
from tests.support.installation import Installation, suspending_settings
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate

pytestmark = [pytest.mark.browser, pytest.mark.slurm]


@pytest.fixture
def gate(cluster: LocalCluster, tmp_path: Path) -> Gate:
    return Gate(cluster, tmp_path / "commands")


@pytest.fixture
def live(gate: Gate, tmp_path: Path) -> Iterator[Installation]:
    places = PlacesSettings.model_validate({"letters": "slurm", "slurm": gate.settings()})
    found = Installation(tmp_path / "installation", suspending_settings(), places)
    found.start()
    try:
        yield found
    finally:
        found.stop(kill=True)


def page_text(browser: WebDriver) -> str:
    """Text of the page; empty while the page draws itself anew."""
    try:
        return str(browser.find_element(By.TAG_NAME, "body").text)
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def press(browser: WebDriver, words: str) -> bool:
    """Press a button once it is there and can be pressed; not while the page draws itself anew or covers it."""
    try:
        for button in browser.find_elements(By.TAG_NAME, "button"):
            if button.text == words and button.is_displayed() and button.is_enabled():
                button.click()
                return True
    except (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException):
        return False
    return False


def test_suspended_run_is_terminated_on_its_page_and_its_job_leaves_the_queue(
    live: Installation, gate: Gate, browser: WebDriver
) -> None:
    run = live.launch(live.add("20240101", slow_s=600))
    live.await_suspended(run)
    (attempt,) = live.attempts("20240101")
    live.wait_for(lambda: attempt.record("start"), seconds=240, what="the job to begin")
    assert gate.jobs() == [attempt.job]

    browser.get(f"{live.url}/runs/{run}")
    words = f"Suspended: job {attempt.job} works on letters"
    live.wait_for(lambda: words in page_text(browser), seconds=240, what="the words on the page")
    assert "Started" in page_text(browser)
    live.wait_for(lambda: press(browser, "Terminate"), seconds=240, what="the button")
    live.wait_for(lambda: press(browser, "Terminate 1 run"), seconds=240, what="the dialog")
    live.wait_for(lambda: live.status(run) == "CANCELED", seconds=240, what="the run to end")

    assert gate.jobs() == []
    assert (attempt.record("closed") or {}).get("kind") == "cancelled"
    assert not live.processes(run)
    live.wait_for(lambda: "Canceled" in page_text(browser), seconds=240, what="the page to say so")
