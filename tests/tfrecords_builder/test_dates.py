from types import SimpleNamespace

from tfrecords_builder import dates


def records(*samples):
    rows = [dict(zip(("key", "date", "s1_date"), sample, strict=True)) for sample in samples]
    fields = {"key": None, "date": None, "s1_date": None}
    return SimpleNamespace(
        schema=SimpleNamespace(fields=fields),
        manifest={"splits": {"train": {}, "test": {}}},
        samples=lambda split: iter(rows[:-1] if split == "train" else rows[-1:]),
    )


def test_dates_by_hand():
    found = dict(
        dates.sections(
            records(
                ("31UGQ_20200720_0_0", "2020-07-20", "2020-07-20"),
                ("31UGQ_20200731_0_0", "2020-07-31", "2020-08-02"),
                ("31UGQ_20200904_0_0", "2020-09-04", "2020-09-03"),
                ("31UGQ_20200720_0_257", "2020-07-20", "2020-07-18"),
            )
        )
    )
    assert found == {
        "Dates of 2 patches by month": [
            ("month", "dates", "patches", "most of a patch"),
            ("2020-07", "3", "2", "2"),
            ("2020-09", "1", "1", "1"),
        ],
        "Dates per patch": [("dates", "patches"), ("1", "1"), ("3", "1")],
        "Distance of Sentinel-1 from Sentinel-2": [("days", "dates"), ("0", "1"), ("1", "1"), ("2", "2")],
    }


def test_a_series_counts_as_its_dates_do():
    single = records(
        ("31UGQ_20200720_0_0", "2020-07-20", "2020-07-20"),
        ("31UGQ_20200731_0_0", "2020-07-31", "2020-08-02"),
        ("31UGQ_20200720_0_257", "2020-07-20", "2020-07-18"),
    )
    series = records(
        ("31UGQ_0_0", "2020-07-20,2020-07-31", "2020-07-20,2020-08-02"),
        ("31UGQ_0_257", "2020-07-20", "2020-07-18"),
    )
    assert dates.sections(single) == dates.sections(series)


def test_records_without_dates_have_no_such_section():
    assert dates.sections(SimpleNamespace(schema=SimpleNamespace(fields={"key": None}))) == []
