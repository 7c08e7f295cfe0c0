from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.artifact.manifest import sealed
from canao.errors import BudgetError, InputError
from canao.report.write import write_report
from tests.search.landscape import FormulaTrainer, compile_by_formula, device, options, run_search

NASTY = "<script>alert('x')</script>&"


class Page(HTMLParser):
    """Tags, what they link to, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = {"src", "href", "xlink:href"}
        self.links += [value or "" for name, value in attributes if name in links]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")

    def nasty(model_dir: Path, out: Path) -> Artifact:
        artifact = compile_by_formula(model_dir, out)
        kernels = artifact.manifest["kernels"]
        kernels[0]["ops"].append(NASTY)
        (out / "manifest.json").write_text(json.dumps(sealed(artifact.manifest)))
        return Artifact.load(out)

    asked = options(folder / "run", identity={"data": NASTY})
    run_search(asked, FormulaTrainer(folder / "w"), nasty, device())
    return folder / "run"


def test_page_says_what_was_found(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page, summary = Page(path.read_text()), json.loads((run_dir / "summary.json").read_text())
    assert summary["state"] == "certified"
    assert summary["speedup"] == pytest.approx(
        summary["teacher"]["latency_ms"] / summary["certified_ms"]
    )
    for said in ("certified on null", f"{summary['speedup']:.2f}×", "accuracy (decides)", "budget",
                 f"{summary['certified_ms']:.4g} ms", "operators before fusion", "attention_",
                 "the budget is kept", "Pareto front", summary["pareto"][-1]["arch"]):  # fmt: skip
        assert said in page.words, said
    assert page.tags.count("svg") == 1


def test_page_stands_alone_and_nothing_in_it_is_code(run_dir: Path) -> None:
    text = write_report(run_dir).read_text()
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert page.links and all(link.startswith("#") for link in page.links)
    assert page.words.count(NASTY) == 2
    assert NASTY not in text


def test_same_run_same_page(run_dir: Path) -> None:
    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_csv_has_a_line_for_each_candidate(run_dir: Path) -> None:
    write_report(run_dir)
    with open(run_dir / "trials.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    trained = [row for row in rows if row["verdict"] == "trained"]
    assert len(trained) == 6
    for row in trained:
        assert row["arch"] == f"L{row['layers']} H{row['hidden']} A{row['heads']} F{row['ffn']}"
        assert 0 < float(row["accuracy"]) < 1 and float(row["latency_ms"]) > 0


def test_unfinished_run_has_a_report(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    trainer = FormulaTrainer(tmp_path / "w", on_proxy=stop)
    with pytest.raises(KeyboardInterrupt):
        run_search(options(tmp_path / "run"), trainer, compile_by_formula, device())
    page = Page(write_report(tmp_path / "run").read_text())
    assert "unfinished" in page.words and "Best candidate so far" in page.words
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "unfinished"


def test_run_without_a_trial_has_a_report(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    with pytest.raises(BudgetError, match="smallest"):
        run_search(options(tmp_path, budget_ms=0.01), trainer, compile_by_formula, device())
    assert "Nothing has been trained yet" in Page(write_report(tmp_path).read_text()).words


@pytest.mark.parametrize("name", ["", "missing"])
def test_other_directories_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no run.json; give a directory written by `canao search"):
        write_report(tmp_path / name)


@pytest.mark.parametrize("name", ["run.json", "result.json", "profile.json"])
def test_damaged_files_are_named(run_dir: Path, name: str) -> None:
    whole = (run_dir / name).read_text()
    try:
        for text in ("", '{"format": 1}'):
            (run_dir / name).write_text(text)
            with pytest.raises(InputError, match=name.partition(".")[0]):
                write_report(run_dir)
    finally:
        (run_dir / name).write_text(whole)
