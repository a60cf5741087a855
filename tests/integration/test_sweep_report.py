"""A sweep's report can be written at any time; its page opens from disk without a network, sorts, filters and plots."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from test_sweep import sweep

from command import selfspec
from conftest import Warm
from selfspec.errors import UserError
from selfspec.reporting.sweep.figures import draw_figures
from selfspec.reporting.sweep.report import write_sweep_report
from selfspec.reporting.sweep.state import read_sweep
from selfspec.reporting.sweep.table import average_over_seeds, build_table
from selfspec.reporting.sweep.terminal import sweep_results_table

MODELS = {"base": 0.2, "seeds_only": 0.3}
HOSTILE = "</script><script>window.owned = 1</script><b>bold</b> | bar"


def write_sweep(folder: Path, *jobs: dict[str, Any], stages: dict[str, Any] | None = None) -> Path:
    """Write a sweep's folder as the launcher leaves it, and return it.

    Args:
        folder: Where to write it, with a store beside it.
        jobs: The choices of each job, and `value`, the score of its specialized model, if it is done.
        stages: Content of `stages.json`.
    """
    sweep_folder, store = folder / "multirun" / "day" / "time", folder / "store"
    record: dict[str, Any] = {"store": str(store), "jobs": [], "stages": {}}
    for number, job in enumerate(jobs):
        choices = {"domain": "law", "model": "toy", "examples": 4, "lora_r": 8, "seed": 0}
        choices |= {name: job[name] for name in choices if name in job}
        job_folder = sweep_folder / f"{number}-job"
        job_folder.mkdir(parents=True)
        labels = {"examples": f"e{choices['examples']}", "adapter (specialized)": f"a{number}", "scores (base)": "b"}
        names = {label: label.split(" ")[0] for label in labels}
        record["stages"] |= {key: {"label": label, "name": names[label]} for label, key in labels.items()}
        record["jobs"].append(
            {
                "number": number,
                "overrides": job.get("overrides", []),
                "folder": str(job_folder),
                "choices": choices,
                "stages": {label: f"{names[label]}/{key}" for label, key in labels.items()},
            }
        )
        for label, key in labels.items() if "value" in job else ():
            (store / names[label] / key).mkdir(parents=True, exist_ok=True)
            (store / names[label] / key / "manifest.json").write_text(json.dumps({"seconds": 10.0}))
        if "value" in job:
            (job_folder / "results.json").write_text(json.dumps(results(job["value"])))
            (job_folder / "report.html").write_text("the job's own report")
    (sweep_folder / "sweep.json").write_text(json.dumps(record))
    if stages is not None:
        (sweep_folder / "stages.json").write_text(json.dumps(stages))
    return sweep_folder


def results(value: float) -> dict[str, Any]:
    """What a job's `results.json` holds: one measure at two numbers of shots, on one task."""
    scores, differences = [], []
    for shots in (0, 5):
        for task in ("all", "a_task"):
            columns = {"shots": shots, "measure": "token_f1", "task": task}
            for model, score in {**MODELS, "specialized": value}.items():
                scores.append({**columns, "model": model, "value": score, "low": score - 0.125, "high": score + 0.125})
            for other, score in MODELS.items():
                difference = {**columns, "model": "specialized", "minus": other, "value": value - score}
                differences.append({**difference, "low": value - score - 0.1, "high": value - score + 0.1})
    measures = {"token_f1": "token F1"}
    return {"measures": measures, "scores": scores, "differences": differences, "closed_labels": {}}


@pytest.fixture(scope="module")
def swept(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sweep of eight jobs."""
    folder = tmp_path_factory.mktemp("swept")
    overrides = ("domain=biomedicine,finance", "data_size=4,6", "lora=r8,r16", "baselines.seeds_only=false")
    ended, _ = sweep(warm, folder, *overrides)
    assert ended.code == 0, ended.text
    assert "selfspec report" in ended.text
    return folder / "sweep"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    paths = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not paths:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Browser, folder: Path, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The page, and its problems so far: console messages, errors, and requests for anything but local files."""
    page, problems = browser.new_page(color_scheme=scheme, viewport={"width": 1440, "height": 900}), []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url))
    page.goto(f"file://{folder}/report.html")
    page.wait_for_function(
        "[...document.querySelectorAll('figure:not([hidden]) .plot')].every(p => p.querySelector('svg'))"
    )
    return page, problems


def column(page: Page, name: str, table: str = "scores") -> list[str]:
    """The visible cells below a head."""
    heads = page.locator(f"#{table} th button").all_inner_texts()
    rows = page.locator(f"#{table} tbody tr:visible").all()
    return [row.locator("td").nth(heads.index(name)).inner_text() for row in rows]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_and_shows_its_figures(browser: Browser, swept: Path, scheme: str) -> None:
    page, problems = open_page(browser, swept, scheme)
    names = page.locator("figure:visible h3").all_inner_texts()
    assert names == [
        "Score against data size",
        "Score against LoRA rank",
        "Base against specialized, by task",
        "Gain by domain and model",
        "Time by stage",
    ]
    assert page.locator("figure .plot svg .point, figure .plot svg .points path").count() > 20
    assert "token F1, 0 shots" in page.locator("figure").first.inner_text()
    text, back = page.evaluate("""
        [getComputedStyle(document.querySelector(".xtick text")).fill, getComputedStyle(document.body).backgroundColor]
    """)
    light = [sum(map(int, color[4:-1].split(","))) > 384 for color in (text, back)]
    assert light == ([False, True] if scheme == "light" else [True, False])
    page.locator("#view [name=measure]").select_option("option_auc")
    page.wait_for_function("document.querySelector('.plot .ytitle').textContent.includes('option AUC')")
    assert problems == []


def test_menus_and_search_words_filter_rows(browser: Browser, swept: Path) -> None:
    page, problems = open_page(browser, swept)
    assert len(column(page, "job")) == 8 and set(column(page, "measure")) == {"token F1"}
    page.locator("section:has(#scores) [name=domain]").select_option("finance")
    page.locator("section:has(#scores) [name=lora_r]").select_option("16")
    assert set(column(page, "domain")) == {"finance"} and column(page, "LoRA rank") == ["16", "16"]
    assert page.locator("section:has(#scores) output").inner_text().startswith("2 of ")
    page.locator("section:has(#scores) [name=domain]").select_option("")
    page.locator("section:has(#scores) [name=words]").fill("BIO 6")
    assert column(page, "domain") == ["biomedicine"] * 2 and column(page, "examples") == ["4", "6"]
    page.locator("section:has(#scores) [name=measure]").select_option("")
    assert len(set(column(page, "measure"))) == 8
    with page.expect_navigation():
        page.locator("#scores tbody a:visible").first.click()
    assert "biomedicine" in page.title() and problems == []


def test_a_click_on_a_head_sorts_numbers_by_value_and_empty_cells_last(browser: Browser, tmp_path: Path) -> None:
    values = [0.9, 0.25, 0.1, 0.31]
    folder = write_sweep(
        tmp_path, *({"value": value, "examples": n} for n, value in zip((64, 1000, 8, 250), values, strict=True))
    )
    report = json.loads((folder / "0-job" / "results.json").read_text())
    report["differences"] = []
    (folder / "0-job" / "results.json").write_text(json.dumps(report))
    write_sweep_report(folder)
    page, problems = open_page(browser, folder)
    page.locator("section:has(#scores) [name=shots]").select_option("5")
    head = page.locator("#scores th button")
    head.get_by_text("examples", exact=True).click()
    assert column(page, "examples") == ["8", "64", "250", "1000"]
    head.get_by_text("examples", exact=True).click()
    assert column(page, "examples") == ["1000", "250", "64", "8"]
    head.get_by_text("difference", exact=True).first.click()
    assert column(page, "difference") == ["−.100", "+.050", "+.110", ""]
    head.get_by_text("difference", exact=True).first.click()
    assert column(page, "difference") == ["+.110", "+.050", "−.100", ""]
    assert page.locator("#scores th[aria-sort=descending]").count() == 1 and problems == []


def test_text_of_users_is_escaped(browser: Browser, tmp_path: Path) -> None:
    jobs = [{"value": 0.3, "domain": HOSTILE, "overrides": [f"a={HOSTILE}"]}, {"value": 0.3}, {"examples": 6}]
    folder = write_sweep(tmp_path, *jobs)
    (folder / "2-job" / "error.json").write_text(json.dumps({"what": HOSTILE}))
    write_sweep_report(folder)
    page, problems = open_page(browser, folder)
    assert page.evaluate("window.owned") is None and problems == []
    assert HOSTILE in column(page, "domain") and HOSTILE in page.locator("td.reason").inner_text()
    (line,) = (line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| 2 |"))
    assert "&lt;/script>" in line and "\\| bar" in line


def test_html_markdown_and_csv_have_the_same_numbers(swept: Path) -> None:
    record = json.loads((swept / "sweep.json").read_text())
    for job in record["jobs"]:
        scores = json.loads((Path(job["folder"]) / "results.json").read_text())["scores"]
        (score,) = (
            row for row in scores if (row["model"], row["measure"], row["task"]) == ("specialized", "rouge_l", "all")
        )
        with (swept / "report.csv").open() as file:
            (line,) = (
                line
                for line in csv.DictReader(file)
                if (line["job"], line["scored_model"], line["measure"], line["task"])
                == (str(job["number"]), "specialized", "rouge_l", "all")
            )
        assert [float(line[name]) for name in ("value", "low", "high")] == [score[n] for n in ("value", "low", "high")]
        text = f"{score['value']:.3f}".replace("0.", ".", 1)
        table = (swept / "report.md").read_text().split("## ROUGE-L")[1].split("##")[0]
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {job['number']} |"))
        assert f" {text} (" in line and f" {job['choices']['domain']} " in line
    page = (swept / "report.html").read_text()
    assert "8 of 8 jobs done" in page and "All jobs: model gemma-3-270m, seed 0." in page
    assert "8 jobs need 22 stages, of which 22 are done; separate jobs would need 32 stage runs." in page
    sentence = "Jobs with the same seed share their random draws wherever they can (common random numbers)"
    assert sentence in page and sentence in (swept / "report.md").read_text()


def test_an_unfinished_sweep_reports_what_each_job_waits_for(swept: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(swept, tmp_path / "copy")
    record = json.loads((folder / "sweep.json").read_text())
    for job in record["jobs"]:  # a copy from another machine: neither the folders nor the store are where they were
        job["folder"] = f"/nowhere/{Path(job['folder']).name}"
    (folder / "sweep.json").write_text(json.dumps({**record, "store": str(tmp_path / "gone")}))
    (folder / "stages.json").unlink(missing_ok=True)
    job_folders = [folder / Path(job["folder"]).name for job in record["jobs"]]
    (job_folders[0] / "results.json").write_text((job_folders[0] / "results.json").read_text()[:1000])
    (job_folders[1] / "results.json").unlink()
    (job_folders[2] / "results.json").write_text('{"scores": [{"model": "base"}], "differences": []}')
    write_sweep_report(folder)
    page = (folder / "report.html").read_text()
    assert "5 of 8 jobs done, 3 missing" in page and page.count("waiting for examples (not done)") == 3
    assert "22 stages, of which 0 are done" in page and "The stages took 0.0 s" in page
    for job_folder in job_folders[3:]:
        shutil.rmtree(job_folder)
    write_sweep_report(folder)
    assert "No job is done yet." in (folder / "report.html").read_text()


def test_a_job_without_results_has_a_state_a_reason_and_a_log(tmp_path: Path) -> None:
    stages: dict[str, Any] = {
        "e4": {
            "state": "running",
            "message": "",
            "job": "",
            "host": "",
            "seconds": 0.0,
            "log": "",
        },  # done: it is in the store
        "a1": {
            "state": "failed",
            "message": "no memory",
            "seconds": 3.0,
            "log": f"{tmp_path}/multirun/day/time/a1/log.txt",
        },
        "a2": {
            "state": "failed",
            "message": "not this",
            "job": "17",
            "host": "n1",
            "seconds": 3.0,
            "log": "/far/log.txt",
        },
        "a3": {"state": "queued", "message": "", "job": "123", "host": "node2", "seconds": 0.0, "log": "/far/3.txt"},
        "a4": {"state": "done", "message": ""},  # since removed from the store
        "b": {"state": "done"},
    }
    folder = write_sweep(tmp_path, {"value": 0.4}, *({} for _ in range(5)), stages=stages)
    (folder / "2-job" / "error.json").write_text(json.dumps({"stage": "adapter", "what": "the job's own message"}))
    store = tmp_path / "store" / "adapter" / "a5"
    store.mkdir()
    (store / "manifest.json").write_text(json.dumps({"seconds": 5.0}))
    state = read_sweep(folder)
    assert [(job.state, job.message, job.log) for job in state.jobs[1:5]] == [
        ("failed", "adapter (specialized) failed: no memory", "a1/log.txt"),
        ("failed", "the job's own message", "/far/log.txt"),
        ("waiting", "waiting for adapter (specialized) (queued, job 123 on node2)", "/far/3.txt"),
        ("missing", "waiting for adapter (specialized) (not done)", ""),
    ]
    assert state.jobs[5].state == "missing" and "its results.json is not written" in state.jobs[5].message
    assert {stage.key: stage.state for stage in state.stages}["e4"] == "done"
    write_sweep_report(folder)
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "1 of 6 jobs done, 2 failed, 1 waiting, 2 missing" in page
    for name in ("no memory", "job 123 on node2", "/far/log.txt"):
        assert name in page and name in text


def test_sharing_a_stage_saves_its_time_in_each_further_job(tmp_path: Path) -> None:
    state = read_sweep(
        write_sweep(tmp_path, {"value": 0.4}, {"value": 0.5}, {"value": 0.5, "examples": 6}, {"examples": 8})
    )
    stages = {stage.key: (stage.state, len(stage.jobs), stage.seconds_saved) for stage in state.stages}
    assert (
        stages["e4"] == ("done", 2, 10.0) and stages["b"] == ("done", 4, 30.0) and stages["e8"] == ("not done", 1, None)
    )
    assert (state.seconds_used, state.seconds_saved) == (60.0, 40.0)


def test_jobs_that_differ_only_in_the_seed_have_a_mean(browser: Browser, tmp_path: Path) -> None:
    jobs = [{"value": value, "seed": seed, "overrides": [f"seed={seed}"]} for seed, value in enumerate((0.4, 0.5, 0.9))]
    folder = write_sweep(tmp_path, *jobs, {"value": 0.1, "examples": 6})
    first = average_over_seeds(build_table(read_sweep(folder).jobs))[0]
    spread = first.cells["specialized"]
    assert first.seeds == (0, 1, 2) and (spread.mean, spread.low, spread.high) == (pytest.approx(0.6), 0.4, 0.9)
    assert spread.sd == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    write_sweep_report(folder)
    page, problems = open_page(browser, folder)
    page.locator("section:has(#seeds) [name=shots]").select_option("0")
    assert column(page, "seeds", "seeds") == ["0, 1, 2", "0"] and column(page, "mean", "seeds") == [".600", ".100"]
    assert column(page, "sd", "seeds") == [".265", ""] and problems == []
    assert (
        average_over_seeds(
            build_table(read_sweep(write_sweep(tmp_path / "one", {"value": 0.4}, {"value": 0.4, "lora_r": 16})).jobs)
        )
        == []
    )


def test_overrides_are_shown_where_choices_do_not_distinguish_jobs(tmp_path: Path) -> None:
    common = ["domain=law", "logger=none"]
    jobs = [{"value": 0.4, "overrides": [*common, f"tuning.epochs={n}"]} for n in (1, 2)]
    assert build_table(read_sweep(write_sweep(tmp_path / "keys", *jobs)).jobs).overrides == {
        0: "tuning.epochs=1",
        1: "tuning.epochs=2",
    }
    jobs = [{"value": 0.4, "overrides": [*common, f"lora={name}"]} for name in ("r8", "mine")]  # of one rank
    assert build_table(read_sweep(write_sweep(tmp_path / "groups", *jobs)).jobs).overrides == {
        0: "lora=r8",
        1: "lora=mine",
    }
    jobs = [{"value": 0.4, "lora_r": n, "overrides": [*common, f"lora=r{n}"]} for n in (8, 16)]
    assert not build_table(read_sweep(write_sweep(tmp_path / "choices", *jobs)).jobs).keys


def test_every_overridden_key_is_a_column_and_the_held_out_loss_comes_first(tmp_path: Path) -> None:
    rates = ("1e-4", "3e-4")
    jobs = [{"value": 0.4, "overrides": ["logger=none", f"tuning.learning_rate={rate}"]} for rate in rates]
    folder = write_sweep(tmp_path, *jobs)
    for number, loss in enumerate((1.25, 1.5)):
        path = folder / f"{number}-job" / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "held_out_loss": loss}))
    write_sweep_report(folder)
    with (folder / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["tuning.learning_rate"], line["logger"], line["held_out_loss"]) for line in lines} == {
        ("1e-4", "none", "1.25"),
        ("3e-4", "none", "1.5"),
    }
    text = (folder / "report.md").read_text()
    assert "| job | tuning.learning_rate | held-out loss (choose by this) | shots | base |" in text
    assert "| 1 | 3e-4 | 1.500 | 0 |" in text
    page = (folder / "report.html").read_text()
    assert page.index(">tuning.learning_rate<") < page.index(">held-out loss (choose by this)<") < page.index(">base<")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(sweep_results_table(build_table(read_sweep(folder).jobs)))
    shown = [line.split() for line in console.export_text().splitlines()]
    assert ["1", "3e-4", "1.500", "5", ".200", ".300", ".400", "+.200"] in shown


def test_figures_are_valid_and_only_those_that_apply_are_drawn(swept: Path, tmp_path: Path) -> None:
    def views_by_figure(folder: Path) -> dict[str, Any]:
        state = read_sweep(folder)
        return {figure["name"]: figure["views"] for figure in draw_figures(build_table(state.jobs), state.stages)}

    for views in views_by_figure(swept).values():
        for plot in views.values():
            go.Figure(plot)  # raises on what plotly does not know
            assert "NaN" not in json.dumps(plot)
    alone = views_by_figure(write_sweep(tmp_path / "alone", {"value": 0.4}))
    assert list(alone) == ["Base against specialized, by task", "Time by stage"]
    sizes = views_by_figure(
        write_sweep(tmp_path / "sizes", *({"value": 0.4, "seed": n % 2, "examples": 4 + n // 2} for n in range(4)))
    )
    line, points = sizes["Score against data size"]["token_f1/0"]["data"][:2]
    assert len(line["x"]) == 2 and len(points["x"]) == 4
    assert points["error_y"]["array"] == [pytest.approx(0.125)] * 4


def test_missing_numbers_are_empty_cells(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, {"value": 0.4}, {"value": 0.4, "lora_r": 16})
    text = (folder / "0-job" / "results.json").read_text().replace('"low": 0.275,', '"low": NaN,')
    (folder / "0-job" / "results.json").write_text(text.replace('"value": 0.2,', '"value": NaN,'))
    write_sweep_report(folder)
    assert "nan" not in (folder / "report.csv").read_text() + (folder / "report.md").read_text()
    assert "| .400 |" in (folder / "report.md").read_text()
    assert all("NaN" not in line for line in (folder / "report.html").read_text().splitlines() if "token_f1/0" in line)


def test_the_report_command_refuses_a_folder_without_a_sweep(tmp_path: Path) -> None:
    ended = selfspec("report", tmp_path)
    assert ended.returncode == 1 and "no readable sweep.json" in ended.stderr and ended.stderr.count("\n") == 1
    with pytest.raises(UserError):
        write_sweep_report(tmp_path)
