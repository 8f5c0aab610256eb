from __future__ import annotations

from command import virnucpro


def test_the_demo_answers_anywhere(tmp_path):
    run = virnucpro(tmp_path, "demo", cwd=tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    report = tmp_path / "demo_virnucpro" / "report.html"
    assert report.is_file() and f"Open in a browser: {report}" in run.stdout.decode()
    assert "6 sequences, model mini" in run.stdout.decode()
