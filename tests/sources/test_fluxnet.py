from __future__ import annotations

from zipfile import ZipFile

import numpy as np
import pytest

from fluxgrid.errors import TableError
from fluxgrid.sources import Screen
from fluxgrid.sources.fluxnet import Fluxnet

HEADER = (
    "TIMESTAMP,TA_F,TA_F_QC,SW_IN_F,LW_IN_F,VPD_F,PA_F,P_F,WS_F,NETRAD,CO2_F_MDS,NEE_VUT_REF,NEE_VUT_REF_QC,"
    "NEE_VUT_USTAR50,NEE_VUT_USTAR50_QC,RECO_NT_VUT_REF,GPP_NT_VUT_REF,GPP_NT_VUT_USTAR50,RECO_DT_VUT_REF,GPP_DT_VUT_REF"
)
DAYS = """
19911028,8.63,1,69.3,311.1,1.34,98.1,12.4,2.71,-9999,351.2,1.21,0.875,1.25,0.8,2.86,1.65,1.5,3.1,1.9
19911029,7.1,1,85.2,290.4,1.9,98.5,0,3.05,-9999,352,0.9,0.25,0.95,0.3,2.5,1.6,1.45,2.9,2.1
19911030,-9999,1,90.1,288,2.4,98.6,0,2.2,41.5,-9999,-9999,-9999,-9999,-9999,2.4,-0.2,-0.1,2.8,0.0
"""
MONTHS = """
199110,9.1,1,95.2,310,2.1,98.2,3.4,2.8,-9999,352,0.8,0.7,0.8,0.7,2.6,1.8,1.7,2.9,2.1
199111,3.2,1,70.1,280,1.4,98.4,2.9,3.1,-9999,354,1.1,0.6,1.1,0.6,1.5,0.4,0.4,1.6,0.5
"""
FLUXNET_LIST = """SITE_ID,SITE_NAME,FLUXNET2015,LOCATION_LAT,LOCATION_LONG,LOCATION_ELEV,IGBP,CLIMATE_KOEPPEN
US-Ha1,"Harvard Forest, EMS Tower",CC-BY-4.0,42.5378,-72.1715,340,DBF,Dfb
"""
AMERIFLUX_LIST = (
    "Site ID\tName\tVegetation Abbreviation (IGBP)\tClimate Class Abbreviation (Koeppen)\tLatitude (degrees)\t"
    "Longitude (degrees)\tElevation (m)\nUS-Ha1\tHarvard Forest\tDBF\tDfb\t42.5378\t-72.1715\t340\n"
)
BADM = """SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE
US-Ha1,27000001,GRP_CLIM_AVG,CLIMATE_KOEPPEN,Dfb
US-Ha1,23000001,GRP_HEADER,SITE_NAME,"Harvard Forest EMS Tower (HFR1)"
US-Ha1,24000001,GRP_IGBP,IGBP,DBF
US-Ha1,25000001,GRP_LOCATION,LOCATION_LAT,42.5378
US-Ha1,25000001,GRP_LOCATION,LOCATION_LONG,-72.1715
US-Ha1,25000001,GRP_LOCATION,LOCATION_ELEV,340
"""
NAMES = [
    "FLX_{site}_FLUXNET2015_FULLSET_{step}_1991-2012_1-4.csv",
    "FLX_{site}_FLUXNET2015_SUBSET_{step}_1991-2012_1-4.csv",
    "AMF_{site}_FLUXNET_SUBSET_{step}_1991-2020_3-5.csv",
    "AMF_{site}_FLUXNET_FLUXMET_{step}_1991-2025_v1.3_r1.csv",
    "ICOSETC_{site}_FLUXNET_{step}_L2.csv",
]


def put(folder, name=NAMES[0], site="US-Ha1", step="DD", body=DAYS):
    path = folder / name.format(site=site, step=step)
    path.write_text(HEADER + body)
    return path


@pytest.fixture
def site_list(tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "sites.csv"
    path.write_text(FLUXNET_LIST)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_daily_files_of_every_network(tmp_path, site_list, name):
    put(tmp_path, name)
    put(tmp_path, name, step="YY", body="\n1991,8,1\n")
    sites = Fluxnet(site_list).read_sites(tmp_path)
    series = sites["US-Ha1"].series
    assert sites.step == "daily"
    assert list(series["gpp"]) == pytest.approx([1.65, 1.6, -0.2])
    assert list(series["nee"]) == pytest.approx([1.21, 0.9, np.nan], nan_ok=True)
    assert list(series["precipitation"]) == pytest.approx([12.4, 0, 0])
    assert list(series["netrad"]) == pytest.approx([np.nan, np.nan, 41.5], nan_ok=True)
    assert series["temperature_2m"].isna().tolist() == [False, False, True]
    assert set(series) == {
        "temperature_2m", "precipitation", "shortwave", "longwave", "netrad", "vpd", "wind_speed", "pressure", "co2",
        "nee", "gpp", "reco", "nee_qc",
    }  # fmt: skip


def test_balance_closes_as_published(tmp_path, site_list):
    series = Fluxnet(site_list).read_sites(put(tmp_path))["US-Ha1"].series.dropna(subset="nee")
    assert (series["reco"] - series["gpp"]).to_list() == pytest.approx(series["nee"].to_list(), abs=1e-6)


def test_monthly_precipitation_is_a_daily_rate(tmp_path, site_list):
    put(tmp_path, step="MM", body=MONTHS)
    put(tmp_path)
    sites = Fluxnet(site_list, step="monthly").read_sites(tmp_path)
    series = sites["US-Ha1"].series
    assert [f"{time:%Y-%m-%d}" for time in series.index] == ["1991-10-01", "1991-11-01"]
    assert list(series["precipitation"]) == pytest.approx([3.4, 2.9])


def test_other_partitioning_version_and_screen(tmp_path, site_list):
    path = put(tmp_path)
    assert Fluxnet(site_list, partitioning="DT").read_sites(path)["US-Ha1"].series["gpp"].iloc[1] == np.float32(2.1)
    ustar = Fluxnet(site_list, version="USTAR50").read_sites(path)["US-Ha1"].series
    assert ustar["gpp"].iloc[0] == np.float32(1.5)
    assert ustar["nee_qc"].iloc[0] == np.float32(0.8)
    screened = Fluxnet(site_list, screen=Screen(0.5)).read_sites(path)["US-Ha1"].series
    assert screened["nee"].notna().tolist() == [True, False, False]
    with pytest.raises(TableError, match="none of NEE_CUT_REF, GPP_NT_CUT_REF, RECO_NT_CUT_REF; try another"):
        Fluxnet(site_list, threshold="CUT").read_sites(path)


def test_text_among_numbers_is_told_with_site_and_column(tmp_path, site_list):
    put(tmp_path, body=DAYS.replace("8.63", "8.6.3"))
    with pytest.raises(
        TableError, match=r"US-Ha1, column temperature_2m: 1 cells that are no numbers, such as '8.6.3'"
    ):
        Fluxnet(site_list).read_sites(tmp_path)


def test_an_elevation_nobody_knows_is_missing(tmp_path, site_list):
    listed = tmp_path / "list.csv"
    listed.write_text(FLUXNET_LIST.replace(",340,", ",-9999,"))
    assert np.isnan(Fluxnet(listed).read_sites(put(tmp_path))["US-Ha1"].statics["elevation"])


@pytest.mark.parametrize("text", [FLUXNET_LIST, AMERIFLUX_LIST, BADM])
def test_site_facts_in_every_layout(tmp_path, text):
    listed = tmp_path / "list.csv"
    listed.write_text(text)
    site = Fluxnet(listed).read_sites(put(tmp_path))["US-Ha1"]
    assert (site.latitude, site.longitude, site.statics["elevation"]) == (42.5378, -72.1715, 340)
    assert [site.class_name(name) for name in ("igbp", "koppen", "climate_group")] == ["DBF", "Dfb", "continental"]


def test_published_zip_with_its_own_badm(tmp_path):
    archive = tmp_path / "AMF_US-Ha1_FLUXNET_1991-2025_v1.3_r1.zip"
    with ZipFile(archive, "w") as file:
        file.writestr("AMF_US-Ha1_FLUXNET_FLUXMET_DD_1991-2025_v1.3_r1.csv", HEADER + DAYS)
        file.writestr("AMF_US-Ha1_FLUXNET_FLUXMET_HR_1991-2025_v1.3_r1.csv", "TIMESTAMP_START,TA_F\n")
        file.writestr("AMF_US-Ha1_FLUXNET_ERA5_DD_1981-2025_v1.3_r1.csv", "TIMESTAMP,TA_ERA\n")
        file.writestr("AMF_US-Ha1_FLUXNET_BIFVARINFO_DD_1991-2025_v1.3_r1.csv", "SITE_ID,GROUP_ID\n")
        file.writestr("FLX_AA-Flx_BIF_DD_20200501.csv", "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n")
        file.writestr("AMF_US-Ha1_FLUXNET_BIF_1991-2025_v1.3_r1.csv", BADM)
    for path in (archive, tmp_path):
        site = Fluxnet().read_sites(path)["US-Ha1"]
        assert len(site.series) == 3
        assert site.class_name("igbp") == "DBF"


@pytest.mark.parametrize("step", ["HH", "HR", "WW", "YY"])
def test_other_aggregations_are_refused(tmp_path, site_list, step):
    path = put(tmp_path, step=step)
    with pytest.raises(TableError, match=rf"no daily \(DD\) file of a FLUXNET product; found {step}\. Only DD"):
        Fluxnet(site_list).read_sites(path)


def test_all_sites_without_coordinates_are_named(tmp_path, site_list):
    for site in ("US-Ha1", "US-Aaa", "US-Bbb"):
        put(tmp_path, site=site)
    with pytest.raises(TableError, match="US-Aaa, US-Bbb: latitude is missing; give it in the table or the site list"):
        Fluxnet(site_list).read_sites(tmp_path)
    with pytest.raises(TableError, match="The coordinates of the sites are not known"):
        Fluxnet().read_sites(tmp_path)


def test_a_site_that_comes_twice_is_refused(tmp_path, site_list):
    put(tmp_path, NAMES[0])
    put(tmp_path, NAMES[2])
    with pytest.raises(TableError, match="US-Ha1: 2 files, keep one of AMF_US-Ha1_FLUXNET_SUBSET_DD"):
        Fluxnet(site_list).read_sites(tmp_path)


def test_broken_input(tmp_path, site_list):
    with pytest.raises(TableError, match="There is no file or folder"):
        Fluxnet(site_list).read_sites(tmp_path / "nowhere")
    with pytest.raises(TableError, match="found no file named like one"):
        Fluxnet(site_list).read_sites(tmp_path)
    half = tmp_path / "FLX_US-Ha1.zip"
    half.write_bytes(b"PK half")
    with pytest.raises(TableError, match="is not a whole zip file"):
        Fluxnet(site_list).read_sites(half)
    half.unlink()
    path = put(tmp_path)
    path.write_text(path.read_text().replace("TIMESTAMP,", "TIMESTAMP_START,", 1))
    with pytest.raises(TableError, match="no column TIMESTAMP"):
        Fluxnet(site_list).read_sites(tmp_path)
    path.write_text("")
    with pytest.raises(TableError, match=r"Cannot read FLX_US-Ha1.*No columns"):
        Fluxnet(site_list).read_sites(tmp_path)
    listed = tmp_path / "list.csv"
    listed.write_text("name,where\nHarvard,there\n")
    with pytest.raises(TableError, match="has no columns of site id, latitude and longitude; found name, where"):
        Fluxnet(listed).read_sites(put(tmp_path))
