"""What a source has: files that come, change, go, are half there or broken; folders and servers that do not answer."""

from __future__ import annotations

import functools
import http.client
import http.server
import json
import os
import shutil
import socket
import struct
import threading
import time
import urllib.request
from itertools import product

import numpy as np
import pandas as pd
import pyproj
import pytest

from fluxgrid.data.cube import delivery
from fluxgrid.data.cube.window import CubeReader
from fluxgrid.data.mapping import parse_mapping
from fluxgrid.errors import ConfigError, OutputError, SourceUnavailable
from fluxgrid.netcdf import netcdf_file, open_netcdf, save_netcdf
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
    save_netcdf(change(ds), path.with_suffix(".making"))
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

    def call(**options):
        return look(DeliverySource(str(folder), **options), tmp_path / "state.json")

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


def test_no_attribute_of_a_file_stops_a_look(folder, see):
    attributes = ("scale_factor", "coordinates", "grid_mapping", "units", "bounds", "dtype", "calendar")
    plain, odd = drop(folder), list(product(("vpd", "time", ""), attributes, (7, "x y: z")))
    for number, (place, attribute, value) in enumerate(odd):
        path = folder / f"odd{number}.nc"
        shutil.copy(plain, path)
        with netcdf_file(path, "a") as file:
            (file[place] if place else file).setncattr(attribute, value)
    found = see(settle=0)
    assert "w1.nc" in names(found.deliveries)
    assert len(found.deliveries) + len(found.waiting) + len(found.refused) == 1 + len(odd)


def test_a_grid_larger_than_any_is_refused_before_it_is_read(folder, see):
    with netcdf_file(folder / "w2.nc", "w") as file:
        file.status = "final"
        for name, size, units in (("time", 1, "days since 2019-01-01"), ("y", 300_000, "m"), ("x", 300_000, "m")):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f8", (name,), zlib=True)
            axis.setncatts({"units": units, "axis": {"time": "T", "y": "Y", "x": "X"}[name]})
            axis[:] = np.arange(size, dtype=float)
        array = file.createVariable("vpd", "f4", ("time", "y", "x"), zlib=True, chunksizes=(1, 1000, 1000))
        array.setncatts({"units": "hPa", "grid_mapping": "crs"})
        file.createVariable("crs", "i4").setncatts(pyproj.CRS("EPSG:5070").to_cf())
    (refused,) = see(settle=0).refused
    assert "has 300000 x 300000 cells" in refused.reasons[0]


def test_what_is_read_at_a_time_is_bounded(folder, see, monkeypatch):
    whole = see().deliveries[0].variables
    (folder.parent / "state.json").unlink()
    most, plain = [], CubeReader.read
    monkeypatch.setattr(CubeReader, "read", lambda *args: most.append(plain(*args)) or most[-1])
    monkeypatch.setattr(delivery, "_MOST_VALUES", 14)  # less than a day: two rows of seven cells
    assert see().deliveries[0].variables == whole
    assert max(values.size for values in most) == 14


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
    """Serves a folder with a listing, counts what is asked, and behaves as it is told to."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(f"GET {self.path}")
        if self.broken:
            self.send_error(503)
        elif self.path in self.leads:
            self.send_response(302)
            self.send_header("Location", self.leads[self.path])
            self.end_headers()
        elif self.path in self.resets:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"CDF")
            # a reset, as of a router that goes down: not an end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            super().do_GET()

    def do_HEAD(self):
        self.asked.append(f"HEAD {self.path}")
        super().do_HEAD()

    def send_header(self, keyword, value):
        super().send_header(keyword, self.headers_told.get(keyword, value))


@pytest.fixture
def server(folder):
    told = {"asked": [], "broken": False, "leads": {}, "resets": (), "headers_told": {}}
    handler = type("Handler", (_Server,), told)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", handler
        served.shutdown()


@pytest.fixture
def see_url(tmp_path, server):
    def call(**options):
        source = DeliverySource(server[0], copies=tmp_path / "copies", **options)
        return look(source, tmp_path / "state.json")

    return call


def test_a_listing_of_a_server(folder, server, see_url):
    drop(folder, "w2.nc", slice(7, 14))
    first = see_url()
    assert names(first.deliveries) == ["w1.nc", "w2.nc"]
    assert first.deliveries[0].modified_ns == OLD * 10**9
    with open_netcdf(first.deliveries[1].path) as copy:
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
    assert see_url(reopen=10**4).deliveries[0].digest != first.deliveries[0].digest


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


def test_a_connection_that_breaks_leaves_a_file_waiting_and_the_others_come(folder, server, see_url, tmp_path):
    drop(folder, "w2.nc", slice(7, 14))
    server[1].resets = ("/w1.nc",)
    found = see_url()
    assert names(found.deliveries) == ["w2.nc"]
    assert [part.name for part in found.waiting] == ["w1.nc"]
    assert found.waiting[0].reasons[0].startswith("it was not sent whole")
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["w2.nc"]
    server[1].resets = ()
    assert names(see_url().deliveries) == ["w1.nc", "w2.nc"]


def test_a_connection_that_breaks_in_the_index_is_a_source_that_cannot_be_reached(server, see_url):
    server[1].resets = ("/index.json",)
    with pytest.raises(SourceUnavailable, match=r"index\.json cannot be reached"):
        see_url()


def test_a_copy_that_cannot_be_written_is_not_the_fault_of_the_source(server, see_url, tmp_path):
    (tmp_path / "copies").write_text("a file")
    with pytest.raises(OutputError, match="Cannot write"):
        see_url()


@pytest.mark.parametrize("header", ["Last-Modified", "Content-Length"])
def test_headers_that_cannot_be_read_count_as_absent(server, see_url, header):
    server[1].headers_told = {header: "soon"}
    assert names(see_url().deliveries) == ["w1.nc"]


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "null", "[3]", "[{}]", '[{"name": "w1.nc", "modified": 3}]', '[{"name": "w1.nc", "modified": "x"}]'],
)
def test_an_index_that_is_none_is_told(folder, see_url, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(SourceUnavailable, match="is no list of files"):
        see_url()


def test_a_listing_that_is_none_is_told(folder, see_url):
    (folder / "index.html").write_text("<![x[ ")
    with pytest.raises(SourceUnavailable, match="no listing that can be read"):
        see_url()


def test_names_that_no_disk_takes_are_left_out(folder, see_url):
    (folder / "index.json").write_text(json.dumps(["w1.nc", "a\0b.nc", "\ud800.nc", "w" * 300 + ".nc"]))
    found = see_url()
    assert (names(found.deliveries), found.waiting) == (["w1.nc"], ())


def test_what_has_no_end_is_cut_off(folder, server, see_url, monkeypatch):
    size = (folder / "w1.nc").stat().st_size
    monkeypatch.setattr(remote, "_MOST_FILE", size - 1)
    assert "is larger than" in see_url().waiting[0].reasons[0]
    monkeypatch.setattr(remote, "_MOST_FILE", size)
    assert names(see_url().deliveries) == ["w1.nc"]
    monkeypatch.setattr(remote, "_MOST_INDEX", 9)
    with pytest.raises(SourceUnavailable, match="is larger than 9 bytes"):
        see_url()


def test_what_takes_too_long_is_cut_off(see_url, monkeypatch):
    monkeypatch.setattr(remote, "_WHOLE_SECONDS", 0.0)
    with pytest.raises(SourceUnavailable, match="took more than 0 s"):
        see_url()


def test_redirects_are_followed_to_servers_only(folder, server, see_url):
    server[1].leads = {"/index.txt": "/list"}
    (folder / "list").write_text("w1.nc")
    assert names(see_url().deliveries) == ["w1.nc"]
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/list"):
        server[1].leads = {"/index.txt": place}
        with pytest.raises(SourceUnavailable, match="cannot be reached"):
            see_url()


def test_redirects_do_not_leave_an_encrypted_connection(server, tmp_path, monkeypatch):
    class Plain(urllib.request.HTTPSHandler):
        """What urllib takes for https; our server speaks http."""

        def https_open(self, request):
            return self.do_open(http.client.HTTPConnection, request)

    url, handler = server
    monkeypatch.setattr(remote, "_OPENER", urllib.request.build_opener(remote._SameScheme, Plain))
    handler.leads = {"/index.json": f"{url}/list"}
    safe = DeliverySource(url.replace("http:", "https:"), copies=tmp_path / "copies")
    with pytest.raises(SourceUnavailable, match="leads from https to http:"):
        look(safe, tmp_path / "state.json")


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
