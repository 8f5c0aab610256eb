import importlib.util
import logging

from numba.core import caching

from virnucpro.homology import compiled


def test_without_a_place_for_compiled_code_it_is_compiled_again_and_said(monkeypatch, caplog):
    """As in an installation and a home directory that nobody may write."""
    owner = caching.CacheImpl if hasattr(caching, "CacheImpl") else caching._CacheImpl
    monkeypatch.setattr(owner, "_locator_classes", [])
    spec = importlib.util.spec_from_file_location("again", compiled.__file__)
    again = importlib.util.module_from_spec(spec)
    with caplog.at_level(logging.WARNING):
        spec.loader.exec_module(again)
    (line,) = caplog.messages
    assert "NUMBA_CACHE_DIR" in line
    assert again.compiled(lambda x: x + 1)(2) == 3
    assert again.inlined(lambda x: x + 2)(2) == 4
