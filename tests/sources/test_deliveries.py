"""What a source has: files that come, change, go, are half there or broken; folders and servers that do not answer."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import ConfigError, SourceUnavailable
from fluxgrid.sources import deliveries, remote
from fluxgrid.sources.deliveries import DeliverySource, StatusRule, look
from fluxgrid.testing import small_cube

CUBE = small_cube(periods=30)
OLD = 1_600_000_000  # long settled


def drop(folder, name="w1.nc", days=slice(0, 7), when=OLD, change=lambda ds: ds, **attrs):
    """Write a delivery as a data centre would."""
    folder.mkdir(exist_ok=True)
    ds = CUBE[["temperature_2m", "vpd"]].isel(time=days)
    ds.attrs |= {"status": "final"} | attrs
    for array in ds.data_vars.values():
        array.encoding = {"zlib": True, "fletcher32": True}
    path = folder / name
    change(ds).to_netcdf(path.with_suffix(".making"))
    os.utime(path.with_suffix(".making"), (when, when))
    return path.with_suffix(".making").replace(path)


def names(found):
    return [part.name for part in found]


@pytest.fixture
def folder(tmp_path):
    drop(tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def see(tmp_path, folder):
    """Return a function that looks at the folder, with options of the source."""

    def call(everything=False, **options):
        return look(DeliverySource(str(folder), **options), tmp_path / "state.json", everything)

    return call


def test_a_delivery_says_what_it_holds(folder, see):
    drop(folder, "w2.nc", slice(7, 9), status="Provisional data", date_created="2019-01-12T03:00:00+03:00")
    first, second = see().deliveries
    assert (first.name, first.start, first.end, first.status) == ("w1.nc", "2019-01-01", "2019-01-07", "final")
    assert (second.start, second.end, second.status) == ("2019-01-08", "2019-01-09", "provisional")
    assert first.issued == "2020-09-13T12:26:40Z"  # of the file, for it does not say itself
    assert second.issued == "2019-01-12T00:00:00Z"
    assert [v.name for v in first.variables] == ["temperature_2m", "vpd"]
    values = CUBE.temperature_2m.isel(time=slice(0, 7)).values.astype("f4")
    assert (first.variables[0].low, first.variables[0].high) == (values.min(), values.max())
    assert first.variables[0].missing == 0
    assert (first.grid, first.day_definition) == (second.grid, "UTC")
    assert deliveries.Delivery.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_a_second_look_opens_nothing_and_writes_nothing(folder, see, tmp_path, monkeypatch):
    first = see()
    written = (tmp_path / "state.json").stat().st_mtime_ns
    monkeypatch.setattr(deliveries, "_read", None)
    assert see() == first
    assert (tmp_path / "state.json").stat().st_mtime_ns == written


def test_a_copy_of_the_same_bytes_is_not_opened_again(folder, see, monkeypatch):
    (first,) = see().deliveries
    os.utime(folder / "w1.nc", (OLD + 5, OLD + 5))
    monkeypatch.setattr(deliveries, "open_delivery", None)
    (again,) = see().deliveries
    assert again.digest == first.digest
    assert again.modified_ns == (OLD + 5) * 10**9


def test_a_changed_file_is_seen_whatever_its_age(folder, see):
    (first,) = see().deliveries
    drop(folder, when=OLD + 1, change=lambda ds: ds + 1)
    (second,) = see().deliveries
    assert second.digest != first.digest
    assert second.rank > first.rank


def test_other_rules_read_everything_again(folder, see):
    drop(folder, "w1.nc", stage="final", status="")
    assert names(see().refused) == ["w1.nc"]
    assert names(see(status=StatusRule("stage")).deliveries) == ["w1.nc"]


@pytest.mark.parametrize("name", [".w2.nc.x7Gh2", "w2.nc.part", "w2.nc~", ".w2.nc", "w2.nc.filepart"])
def test_temporary_names_wait(folder, see, name):
    shutil.copy(folder / "w1.nc", folder / name)
    found = see()
    assert names(found.deliveries) == ["w1.nc"]
    assert [(part.name, part.reasons) for part in found.waiting] == [(name, ("it has a temporary name",))]


def test_other_files_do_not_matter(folder, see):
    for name in ("README", "w1.nc.md5", "w2.grib.tmp"):
        (folder / name).write_text("?")
    found = see()
    assert (names(found.deliveries), found.waiting) == (["w1.nc"], ())


def test_a_young_file_waits(folder, see):
    drop(folder, "w2.nc", when=time.time())
    assert see(settle=60).waiting[0].reasons == ("it changed less than 60 s ago",)
    assert names(see(settle=0).deliveries) == ["w1.nc", "w2.nc"]
    drop(folder, "w2.nc", when=time.time() + 10**6)  # a clock that is ahead does not hold it up for ever
    assert names(see(settle=60).deliveries) == ["w1.nc", "w2.nc"]


def test_a_file_that_changes_while_it_is_read_waits(folder, see, monkeypatch):
    plain = deliveries.describe

    def slow(opened):
        os.utime(folder / "w1.nc", (OLD + 9, OLD + 9))
        return plain(opened)

    monkeypatch.setattr(deliveries, "describe", slow)
    found = see()
    assert (found.deliveries, found.waiting[0].reasons) == ((), ("it changed while it was read",))


def truncate(data):
    return data[: len(data) // 2]


def flip(data):
    place = data.rfind(b"\x78\x5e") + 12  # in the last compressed values
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


@pytest.mark.parametrize("harm", [truncate, flip, lambda _: b"", lambda _: b"<html>Service unavailable</html>"])
def test_a_broken_file_waits_then_is_called_damaged_then_is_well(folder, see, harm):
    path = drop(folder, "w2.nc", slice(7, 14))
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    os.utime(path, (OLD, OLD))
    first = see()
    assert (names(first.deliveries), names(first.waiting), first.damaged) == (["w1.nc"], ["w2.nc"], ())
    second = see()
    assert (names(second.waiting), names(second.damaged)) == ([], ["w2.nc"])
    assert second.damaged[0].since == first.waiting[0].since
    assert see() == second
    path.write_bytes(whole)
    os.utime(path, (OLD, OLD))
    third = see()
    assert (names(third.deliveries), third.damaged) == (["w1.nc", "w2.nc"], ())


def test_all_that_is_wrong_with_a_file_is_told_at_once(folder, see):
    def spoil(ds):
        ds = ds.assign_attrs(status="who knows").drop_isel(time=3)
        ds.vpd.attrs["units"] = "kg"
        return ds

    drop(folder, "w2.nc", change=spoil)
    found = see()
    assert names(found.deliveries) == ["w1.nc"]
    told = "\n".join(found.refused[0].reasons)
    assert "vpd" in told
    assert "2019-01-04" in told
    assert "'status' (who knows) says none of provisional, preliminary, final" in told


def test_status_in_the_name_or_as_said_otherwise(folder, see):
    drop(folder, "rain_NRT_w2.nc", status="")
    rule = StatusRule(in_name=True, provisional=("_nrt_",), final=("_v1_",), otherwise="final")
    said = {delivery.name: delivery.status for delivery in see(status=rule).deliveries}
    assert said == {"w1.nc": "final", "rain_NRT_w2.nc": "provisional"}


def test_foreign_names_and_units(folder, see):
    drop(folder, change=lambda ds: ds.assign(t2m=ds.temperature_2m + 273.15).drop_vars("temperature_2m"))
    entries = {
        "temperature_2m": {"from": "t2m", "units": "K"},
        "precipitation": {"from": "tp", "units": "m d-1"},  # in another file, perhaps
    }
    mapping = parse_mapping({"variables": entries})
    (found,) = see(mapping=mapping).deliveries
    assert [(v.name, v.source, v.units) for v in found.variables] == [("temperature_2m", "t2m", "K")]
    low = CUBE.temperature_2m.isel(time=slice(0, 7)).min()
    assert found.variables[0].low == pytest.approx(float(low), abs=1e-3)


def test_what_is_gone_is_named_once(folder, see):
    drop(folder, "w2.nc", slice(7, 14))
    see()
    (folder / "w1.nc").unlink()
    assert see().gone == ("w1.nc",)
    assert see().gone == ()


def test_a_folder_that_cannot_be_reached(folder, see):
    see()
    folder.rename(folder.with_name("away"))
    with pytest.raises(SourceUnavailable, match="mount the disk, or try again later") as caught:
        see()
    assert caught.value.exit_code == 6
    folder.mkdir()  # the mount point of a disk that is not mounted
    with pytest.raises(SourceUnavailable, match="holds nothing of the 1 files it held before"):
        see()


def test_a_torn_state_costs_another_look_only(folder, see, tmp_path):
    first = see()
    (tmp_path / "state.json").write_text((tmp_path / "state.json").read_text()[:50])
    again = see()
    assert [d.digest for d in again.deliveries] == [d.digest for d in first.deliveries]


def test_locations_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="give a folder, or a URL"):
        look(DeliverySource("ftp://x/y"), tmp_path / "s.json")
    with pytest.raises(ConfigError, match="copies"):
        look(DeliverySource("http://127.0.0.1:9/x"), tmp_path / "s.json")


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with a listing, and counts what is asked."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(f"GET {self.path}")
        if self.broken:
            self.send_error(503)
        else:
            super().do_GET()

    def do_HEAD(self):
        self.asked.append(f"HEAD {self.path}")
        super().do_HEAD()


@pytest.fixture
def server(folder):
    handler = type("Handler", (_Server,), {"asked": [], "broken": False})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", handler
        served.shutdown()


@pytest.fixture
def see_url(tmp_path, server):
    def call(everything=False, **options):
        source = DeliverySource(server[0], copies=tmp_path / "copies", **options)
        return look(source, tmp_path / "state.json", everything)

    return call


def test_a_listing_of_a_server(folder, server, see_url):
    drop(folder, "w2.nc", slice(7, 14))
    first = see_url()
    assert names(first.deliveries) == ["w1.nc", "w2.nc"]
    assert first.deliveries[0].modified_ns == OLD * 10**9
    with xr.open_dataset(first.deliveries[1].path) as copy:
        np.testing.assert_array_equal(copy.vpd, CUBE.vpd.isel(time=slice(7, 14)))
    server[1].asked.clear()
    assert see_url() == first
    assert [word for word in server[1].asked if word.endswith(".nc")] == ["HEAD /w1.nc", "HEAD /w2.nc"]


def test_files_before_the_window_are_asked_about_on_demand_only(folder, server, see_url):
    drop(folder, "w2.nc", slice(20, 27))
    first = see_url(reopen=10)
    drop(folder, when=OLD + 60, change=lambda ds: ds + 1)
    server[1].asked.clear()
    assert see_url(reopen=10) == first
    assert "HEAD /w1.nc" not in server[1].asked
    assert see_url(everything=True, reopen=10).deliveries[0].digest != first.deliveries[0].digest


def test_an_index_that_tells_digests_reopens_any_file_without_asking(folder, server, see_url):
    drop(folder, "w2.nc", slice(20, 27))

    def index(tag):
        files = [{"name": "w1.nc", "etag": tag}, {"name": "w2.nc", "etag": "b"}, {"name": "../secret.nc"}, "/etc/x.nc"]
        (folder / "index.json").write_text(json.dumps(files))

    index("a")
    first = see_url(reopen=1)
    assert names(first.deliveries) == ["w1.nc", "w2.nc"]
    server[1].asked.clear()
    assert see_url(reopen=1) == first
    assert server[1].asked == ["GET /index.json"]
    drop(folder, when=OLD + 60, change=lambda ds: ds + 1)
    index("c")
    assert see_url(reopen=1).deliveries[0].digest != first.deliveries[0].digest


def test_servers_that_do_not_answer(folder, server, see_url):
    (folder / "index.txt").write_text("w1.nc\nw9.nc\n")
    found = see_url()
    assert [(part.name, part.reasons[0]) for part in found.waiting] == [("w9.nc", "it is listed but not there")]
    server[1].broken = True
    with pytest.raises(SourceUnavailable, match="503"):
        see_url()


def test_no_server_at_all(tmp_path):
    with pytest.raises(SourceUnavailable, match="cannot be reached") as caught:
        look(DeliverySource("http://127.0.0.1:9/", copies=tmp_path / "c"), tmp_path / "s.json")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "when", ["2019-01-08T06:00:00", "2019-01-08T06:00:00Z", "2019-01-08T07:30:00+01:30", "2019-01-07T23:00:00-07:00"]
)
def test_a_time_of_an_index_keeps_its_offset(when):
    text = json.dumps([{"name": "w1.nc", "modified": when}])
    (found,) = remote._of_json(text, "http://somewhere")
    assert found.modified_ns == pd.Timestamp("2019-01-08T06:00:00").value


def test_redirects_to_files_of_this_machine_are_not_followed():
    with pytest.raises(OSError, match="leads to file:"):
        remote._SameScheme().redirect_request(None, None, 302, "", {}, "file:///etc/passwd")


def test_a_file_url_is_a_folder(folder, tmp_path):
    found = look(DeliverySource(folder.as_uri()), tmp_path / "s.json")
    assert names(found.deliveries) == ["w1.nc"]
