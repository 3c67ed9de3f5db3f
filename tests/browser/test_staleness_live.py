"""Use of the web page with webserver and daemon: a folder dropped, a threshold changed, one click, clear again."""

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.frames_plate import make_frames_plate

EXPERIMENT = "20240419_frames"


class Live(Protocol):
    """The running installation that the fixture gives."""

    url: str
    data_root: Path

    def dagster(self, *arguments: str) -> str: ...

    def wait_for(self, condition: Callable[[], object], *, seconds: float, what: str) -> object: ...


pytestmark = pytest.mark.browser


def ask(url: str, query: str) -> dict[str, Any]:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=180) as answer:
        data: dict[str, Any] = json.loads(answer.read())["data"]
    return data


def page_text(browser: WebDriver) -> str:
    """Text of the page; empty while the page draws itself anew."""
    try:
        return str(browser.find_element(By.TAG_NAME, "body").text)
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def press(browser: WebDriver, words: str) -> bool:
    """Press what bears the words; False while it is not there, is covered, or the page draws itself anew."""
    try:
        elements = browser.find_elements(By.XPATH, f"//*[text()='{words}']")
        shown = [element for element in elements if element.is_displayed()]
        for element in shown[-1:]:
            element.click()
    except (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException):
        return False
    return bool(shown)


def counts(browser: WebDriver, url: str, **wanted: int) -> bool:
    """Open the check's partitions and compare the counts, e.g. Failed (1)."""
    browser.get(f"{url}/assets/embryo_latents_final?view=checks&checkDetail=up_to_date")
    for _ in range(60):
        if "Execution history" in page_text(browser) and press(browser, "Partitions"):
            break
        time.sleep(0.5)
    for _ in range(20):
        text = page_text(browser)
        if all(f"{name} ({count})" in text for name, count in wanted.items()):
            return True
        time.sleep(0.5)
    return False


def launch(browser: WebDriver, url: str) -> bool:
    """Press the launch button; while the page still loads a press does nothing, and two would be two runs."""
    if not press_button(browser, "Launch Run"):
        return False
    for _ in range(120):
        if "/runs/" in browser.current_url or launched(url):
            return True
        time.sleep(0.5)
    return False


def press_button(browser: WebDriver, words: str) -> bool:
    """Press a button that can be pressed; its words stand in an element within it."""
    try:
        buttons = [button for button in browser.find_elements(By.TAG_NAME, "button") if button.text == words]
        if not buttons or not buttons[0].is_enabled():
            return False
        buttons[0].click()
    except (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException):
        return False
    return True


def launched(url: str) -> list[dict[str, Any]]:
    """Runs of the job that mends."""
    runs = ask(url, "{runsOrError{... on Runs{results{jobName status}}}}")["runsOrError"]["results"]
    return [run for run in runs if run["jobName"] == "materialize_stale"]


def test_dropped_folder_runs_changed_threshold_is_marked_and_one_click_clears_it(
    live: Live, browser: WebDriver, tmp_path: Path
) -> None:
    layout = MORPHSEQ.layout(live.data_root)
    final = layout.primary("embryo_latents_final", experiment=EXPERIMENT)
    live.dagster("sensor", "start", "new_experiments", "-w", "workspace.yaml")
    make_frames_plate(live.data_root, truth_folder=tmp_path / "truth", experiment=EXPERIMENT)
    live.wait_for(final.exists, seconds=600, what="the final table")
    live.wait_for(lambda: counts(browser, live.url, Passed=1, Failed=0), seconds=300, what="a passed check")
    before = final.read_bytes()

    recipe = layout.recipes(EXPERIMENT)[0]
    recipe.parent.mkdir()
    recipe.write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")
    live.wait_for(lambda: counts(browser, live.url, Passed=0, Failed=1), seconds=300, what="the stale mark")
    live.wait_for(lambda: press(browser, EXPERIMENT), seconds=120, what="the experiment on the page")
    live.wait_for(lambda: "gdino_detections" in page_text(browser), seconds=120, what="the reason on the page")

    browser.get(f"{live.url}/locations/morphseq_dagster/jobs/materialize_stale/playground")
    live.wait_for(lambda: "Launch Run" in page_text(browser), seconds=240, what="the launch button")
    live.wait_for(lambda: launch(browser, live.url), seconds=300, what="the launched run")
    live.wait_for(lambda: counts(browser, live.url, Passed=1, Failed=0), seconds=600, what="a clear mark")
    record = json.loads(layout.record(layout.primary("gdino_detections", experiment=EXPERIMENT)).read_bytes())
    assert record["recipe"]["confidence_threshold"] == 0.5
    assert final.read_bytes() == before, "all detections lie above both thresholds, so the final table stands"
    runs = ask(live.url, "{runsOrError{... on Runs{results{jobName status tags{key value}}}}}")["runsOrError"][
        "results"
    ]
    assert [run["status"] for run in runs if run["jobName"] == "materialize_stale"] == ["SUCCESS"]
    assert any(tag["key"] == "morphseq/stale" for run in runs for tag in run["tags"])
