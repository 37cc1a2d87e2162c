from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from client.data.files.csv_text import DataError
from client.data.files.names import client_name
from client.data.files.partitions import data_files, read_column, read_partition, write_partition
from client.data.partition import Partition
from common.model.schema import Schema, SchemaError
from common.settings import DataSettings

SETTINGS = DataSettings()


def csv(folder: Path, text: str, name: str = "edge.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "edge.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def refusal(path: Path, settings: DataSettings = SETTINGS) -> str:
    with pytest.raises(DataError) as caught:
        read_partition(path, settings)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class TestWhatIsRead:
    @pytest.mark.parametrize("name", ["edge.csv", "edge.csv.gz"])
    def test_csv(self, tmp_path: Path, name: str) -> None:
        outcome = read_partition(csv(tmp_path, "cpu,memory\n1,2\n3,4.5\n", name), SETTINGS)
        assert outcome.name == "edge"
        assert outcome.schema == Schema(("cpu", "memory"))
        assert outcome.rows.dtype == np.float32
        assert outcome.rows.tolist() == [[1, 2], [3, 4.5]]
        assert outcome.test_rows.shape == (0, 2)
        assert outcome.test_labels is None

    def test_parquet_in_row_order(self, tmp_path: Path) -> None:
        outcome = read_partition(parquet(tmp_path, cpu=[3.0, 1.0, 2.0]), SETTINGS)
        assert outcome.rows.tolist() == [[3], [1], [2]]

    def test_a_given_name(self, tmp_path: Path) -> None:
        assert read_partition(csv(tmp_path, "cpu\n1\n"), SETTINGS, "other").name == "other"

    @pytest.mark.parametrize(
        "text",
        ["\ufeffcpu,memory\n1,2\n", "cpu,memory\r\n1,2\r\n", "cpu, memory\n 1, 2\n", "cpu,memory\n+1,2.\n"],
        ids=["byte order mark", "windows", "spaces", "signs and points"],
    )
    def test_csv_as_programs_write_it(self, tmp_path: Path, text: str) -> None:
        outcome = read_partition(csv(tmp_path, text), SETTINGS)
        assert outcome.schema.features == ("cpu", "memory")
        assert outcome.rows.tolist() == [[1, 2]]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (pa.array([1, 2], pa.int8()), [1, 2]),
            (pa.array([2**60 + 1, 2], pa.int64()), [2**60, 2]),
            (pa.array([1.5, 2], pa.float64()), [1.5, 2]),
            (pa.array([True, False]), [1, 0]),
            (pa.array(["1.5", "2"]), [1.5, 2]),
            (pa.array(["1.5", "2"], pa.large_string()), [1.5, 2]),
            (pa.array(["1.5", "2"]).dictionary_encode(), [1.5, 2]),
        ],
        ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
    )
    def test_every_type_of_number(self, tmp_path: Path, values: pa.Array, expected: list[float]) -> None:
        assert read_partition(parquet(tmp_path, cpu=values), SETTINGS).rows[:, 0].tolist() == expected


class TestFeatures:
    def test_default_is_every_numeric_column_without_a_role(self, tmp_path: Path) -> None:
        path = csv(
            tmp_path, "ts,host,cpu,_fault,label,split,build,up\n1,web,5,7,0,0,9,true\n2,db,6,8,0,0,9,false\n"
        )
        assert read_partition(path, DataSettings(ignore=("build",))).schema.features == ("cpu", "up")

    def test_parquet_columns_of_other_types_are_no_features(self, tmp_path: Path) -> None:
        when = pa.array([1, 2], pa.timestamp("s"))
        path = parquet(tmp_path, seen=when, tags=[["a"], ["b"]], host=["web", "db"], cpu=[1, 2])
        assert read_partition(path, SETTINGS).schema.features == ("cpu",)

    def test_roles_can_be_renamed(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "when,cpu,bad,part\n1,5,0,0\n2,6,1,1\n")
        outcome = read_partition(path, DataSettings(timestamp="when", label="bad", split="part"))
        assert outcome.schema.features == ("cpu",)
        assert outcome.test_rows.tolist() == [[6]]
        assert outcome.test_labels is not None and outcome.test_labels.tolist() == [1]

    def test_a_list_sets_which_and_in_what_order(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "cpu,_hidden,memory\n1,2,3\n")
        outcome = read_partition(path, DataSettings(features=("memory", "_hidden")))
        assert outcome.schema.features == ("memory", "_hidden")
        assert outcome.rows.tolist() == [[3, 2]]

    def test_text_outside_the_list_does_not_matter(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "cpu,memory\n1,x\n2,3\n")
        assert read_partition(path, DataSettings(features=("cpu",))).rows.tolist() == [[1], [2]]

    def test_a_missing_listed_column_is_named(self, tmp_path: Path) -> None:
        message = refusal(csv(tmp_path, "cpu\n1\n"), DataSettings(features=("cpu", "disk")))
        assert "'disk'" in message and "it has cpu" in message


class TestSplitAndLabels:
    @pytest.mark.parametrize(
        ("split", "label"),
        [("0 1 1", "1 0 1"), ("0.0 1.0 1.0", "1.0 0.0 1.0"), ("False True true", "True false true")],
    )
    def test_only_test_rows_keep_labels(self, tmp_path: Path, split: str, label: str) -> None:
        lines = [f"{i},{s},{x}" for i, (s, x) in enumerate(zip(split.split(), label.split(), strict=True))]
        outcome = read_partition(csv(tmp_path, "\n".join(["cpu,split,label", *lines])), SETTINGS)
        assert outcome.rows.tolist() == [[0]]
        assert outcome.test_rows.tolist() == [[1], [2]]
        assert outcome.test_labels is not None
        assert outcome.test_labels.dtype == np.int8
        assert outcome.test_labels.tolist() == [0, 1]

    @pytest.mark.parametrize("flags", [[0, 1], [0.0, 1.0], [False, True]], ids=["int", "float", "bool"])
    def test_flags_in_parquet(self, tmp_path: Path, flags: list[Any]) -> None:
        outcome = read_partition(parquet(tmp_path, cpu=[5, 6], split=flags, label=flags), SETTINGS)
        assert outcome.test_labels is not None and outcome.test_labels.tolist() == [1]

    def test_without_split_every_row_trains_and_labels_are_dropped(self, tmp_path: Path) -> None:
        outcome = read_partition(csv(tmp_path, "cpu,label\n1,0\n2,1\n"), SETTINGS)
        assert len(outcome.rows) == 2
        assert outcome.test_labels is None

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("cpu,split\n1,0\n1,2\n", ["'split'", "row 2", "'2'", "0 for training or 1 for test"]),
            ("cpu,split\n1,\n", ["'split'", "row 1", "empty"]),
            ("cpu,label\n1,0\n1,bad\n1,good\n", ["'label'", "row 2", "'bad'", "2 such rows", "0 or 1"]),
            ("cpu,label\n1,0.5\n", ["'label'", "row 1", "'0.5'"]),
            ("cpu,label\n1,nan\n", ["'label'", "row 1", "'nan'"]),
            ("cpu,split\n1,1\n", ["no training rows", "'split' is 1"]),
        ],
    )
    def test_other_values_are_refused(self, tmp_path: Path, text: str, parts: list[str]) -> None:
        message = refusal(csv(tmp_path, text))
        assert all(part in message for part in parts), message

    def test_a_label_of_another_type_is_refused(self, tmp_path: Path) -> None:
        message = refusal(parquet(tmp_path, cpu=[1], label=pa.array([0], pa.timestamp("s"))))
        assert "'label' is of type timestamp" in message and "expected 0 or 1" in message


NAN = float("nan")


class TestMissingCells:
    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            ("1 _ 3", [1, NAN, 3]),
            ("1 NA 3", [1, NAN, 3]),
            ("1 nan inf", [1, NAN, NAN]),
            ("1 1e39 1e400", [1, NAN, NAN]),
            ("1 2 unavailable", [1, 2, NAN]),
            ("1 2 ERR", [1, 2, NAN]),
            ("+1 .5 2.", [1, 0.5, 2]),
            ("on off _", [1, 0, NAN]),
            ("True false true", [1, 0, 1]),
            ("T f T", [1, 0, 1]),
        ],
    )
    @pytest.mark.parametrize("listed", [False, True])
    def test_csv(self, tmp_path: Path, cells: str, expected: list[float], listed: bool) -> None:
        text = "cpu,memory\n" + "".join(f"{cell.strip('_')},1\n" for cell in cells.split())
        settings = DataSettings(features=("cpu", "memory")) if listed else SETTINGS
        np.testing.assert_array_equal(read_partition(csv(tmp_path, text), settings).rows[:, 0], expected)

    @pytest.mark.parametrize(
        "values", [[1.0, None], [1.0, float("nan")], [1.0, float("-inf")], [1.0, 1e300], [1, None]]
    )
    def test_parquet(self, tmp_path: Path, values: list[float | None]) -> None:
        outcome = read_partition(parquet(tmp_path, cpu=values, memory=[1, 2]), SETTINGS)
        np.testing.assert_array_equal(outcome.rows, [[1, 1], [NAN, 2]])

    def test_a_column_without_any_value_is_not_a_feature(self, tmp_path: Path) -> None:
        outcome = read_partition(parquet(tmp_path, cpu=[1, 2], memory=pa.nulls(2)), SETTINGS)
        assert outcome.schema.features == ("cpu",)
        assert outcome.columns is not None and outcome.columns.ignored == {"memory": "empty"}

    def test_a_row_without_any_value_is_skipped(self, tmp_path: Path) -> None:
        outcome = read_partition(csv(tmp_path, "ts,cpu\n1,5\n2,\n3,7\nEND OF FILE,\n"), SETTINGS)
        assert outcome.rows.tolist() == [[5], [7]]

    def test_a_listed_column_of_another_type(self, tmp_path: Path) -> None:
        path = parquet(tmp_path, cpu=pa.array([1], pa.timestamp("s")), host=["a"])
        message = refusal(path, DataSettings(features=("cpu", "host")))
        assert "'cpu' (type timestamp[ms]), 'host' (text, such as 'a')" in message


class TestNumbersAsText:
    @pytest.mark.parametrize(
        "cells",
        [["49.8%", "50.1%"], ["60.1 C", "61 C"], ["1,512.3", "980.2"], ["40,125", "41,2"], ["5kB", "6kB"]],
    )
    def test_all_columns_are_named_at_once(self, tmp_path: Path, cells: list[str]) -> None:
        rows = "".join(f'"{cell}","{cell}",1\n' for cell in cells)
        message = refusal(csv(tmp_path, "load,temp,rpm\n" + rows))
        assert f"'load' ('{cells[0]}'), 'temp' ('{cells[0]}')" in message and "data.ignore" in message
        path = csv(tmp_path, "load,temp,rpm\n" + rows)
        assert read_partition(path, DataSettings(ignore=("load", "temp"))).schema.features == ("rpm",)

    @pytest.mark.parametrize(
        "cell",
        [
            "44.1 €", "EUR 44.1", "(44.1)", "1.500.000", "1.500,25", "1_500", "<44.1", "~ 44.1", "44 m3/h", 
            "44 1/min", "44.1 deg C", "\u221244.1", "'44.1'", "4.41D+01",
        ],
    )  # fmt: skip
    def test_other_ways_to_write_numbers(self, tmp_path: Path, cell: str) -> None:
        rows = "".join(f'"{cell}",{i}\n' for i in range(3))
        assert "numbers as text: 'flow' (" in refusal(csv(tmp_path, "flow,rpm\n" + rows))

    @pytest.mark.parametrize(
        "cell", ["10.0.0.1", "05.01.2026 10:00", "192.168.100.200", "10:00:12", "1.2.0", "4a3f2b"]
    )
    def test_text_with_digits_that_is_no_number(self, tmp_path: Path, cell: str) -> None:
        path = csv(tmp_path, f"tag,rpm\n{cell},1\n{cell},2\n")
        assert read_partition(path, SETTINGS).schema.features == ("rpm",)

    def test_a_tag_with_digits_is_text(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "net,ip,cpu\n5G,10.0.0.1,1\n5G,10.0.0.2,2\n")
        assert read_partition(path, SETTINGS).schema.features == ("cpu",)


class TestTimes:
    def test_interval_and_gaps(self, tmp_path: Path) -> None:
        minutes = [*range(50), *range(100, 150)]
        rows = "".join(f"{1764547200 + 60 * m},{m % 7}\n" for m in minutes)
        outcome = read_partition(csv(tmp_path, "Timestamp,cpu\n" + rows), SETTINGS)
        assert outcome.interval_s == 60
        assert np.flatnonzero(outcome.breaks).tolist() == [0, 50]
        assert "time: 'Timestamp', every 60 s" in outcome.description()
        part = outcome.take("part", np.arange(40, 60), np.arange(0))
        again = read_partition(write_partition(part, tmp_path / "part.parquet", SETTINGS), SETTINGS)
        assert np.flatnonzero(again.breaks).tolist() == [0, 10]

    def test_steps_of_every_length_are_no_gaps(self, tmp_path: Path) -> None:
        times = np.cumsum(np.random.default_rng(0).exponential(60, 2000)) + 1764547200
        rows = "".join(f"{time!r},{i % 7}\n" for i, time in enumerate(times.tolist()))
        assert read_partition(csv(tmp_path, "ts,cpu\n" + rows), SETTINGS).breaks.sum() < 5

    @pytest.mark.parametrize("column", ["Date", "DateTime", "@timestamp", "_time", "Zeit", "TIME"])
    def test_text_of_times(self, tmp_path: Path, column: str) -> None:
        rows = "".join(f"2025-12-01 00:{i:02}:00,{i % 3}\n" for i in range(20))
        outcome = read_partition(csv(tmp_path, f"{column},cpu\n" + rows), SETTINGS)
        assert (outcome.interval_s, outcome.schema.features) == (60, ("cpu",))

    @pytest.mark.parametrize("column", ["timestamp", "TIME", "Zeit", "date"])
    def test_epochs(self, tmp_path: Path, column: str) -> None:
        rows = "".join(f"{1764547200000 + 10000 * i},{i % 3}\n" for i in range(20))
        outcome = read_partition(csv(tmp_path, f"{column},cpu\n" + rows), SETTINGS)
        assert (outcome.interval_s, outcome.schema.features) == (10, ("cpu",))

    def test_types_of_parquet(self, tmp_path: Path) -> None:
        when = pa.array([60 * i * 10**9 for i in range(5)], pa.timestamp("ns", "UTC"))
        assert read_partition(parquet(tmp_path, ts=when, cpu=[1, 2, 1, 2, 1]), SETTINGS).interval_s == 60

    def test_rows_in_bursts_have_their_mean_interval_and_no_gaps(self, tmp_path: Path) -> None:
        rows = "".join(f"{second - second % 60},{second % 7}\n" for second in range(600))
        outcome = read_partition(csv(tmp_path, "ts,cpu\n" + rows), SETTINGS)
        assert outcome.interval_s == pytest.approx(540 / 599)
        assert outcome.breaks.sum() == 1


class TestColumnsThatCount:
    def test_rows_and_counters(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [f"{i},{i + 7},{1e9 + 5000 * i},{i % 5}" for i in range(50)]
        path = csv(tmp_path, "\n".join(["Unnamed: 0,number,bytes_total,cpu", *lines]))
        outcome = read_partition(path, SETTINGS)
        assert outcome.schema.features == ("bytes_total", "cpu")
        assert outcome.columns is not None
        assert outcome.columns.ignored == {"Unnamed: 0": "no name", "number": "counts the rows"}
        assert "only rising, as counters do: 'bytes_total'" in caplog.text

    @pytest.mark.parametrize(
        "numbers", [[*range(50), *range(53, 103)], [*range(60), *range(40)], [*range(100, 0, -1)]]
    )
    def test_row_numbers_with_a_gap_or_from_the_last_row_on(self, tmp_path: Path, numbers: list[int]) -> None:
        lines = [f"{number},{i % 5}" for i, number in enumerate(numbers)]
        outcome = read_partition(csv(tmp_path, "\n".join(["row_id,cpu", *lines])), SETTINGS)
        assert outcome.schema.features == ("cpu",)


class TestLinesThatAreNoRows:
    @pytest.mark.parametrize(
        "before",
        [
            "Report of press 1\n\n",
            "Device: 1\nExported: 2026-01-05\n",
            "sep=,\n",
            "; exported\n",
            "// no\n",
            "% no\n",
        ],
    )
    def test_lines_before_the_header_are_skipped(self, tmp_path: Path, before: str) -> None:
        outcome = read_partition(csv(tmp_path, before + "cpu,memory\n" + "1,2\n" * 5), SETTINGS)
        assert outcome.schema.features == ("cpu", "memory") and len(outcome.rows) == 5

    @pytest.mark.parametrize("line", ['"1,2', '1,"2'])
    def test_a_quote_that_is_not_closed_costs_one_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
    ) -> None:
        text = "cpu,memory\n" + "1,2\n" * 100 + line + "\n" + "1,2\n" * 100
        assert len(read_partition(csv(tmp_path, text), SETTINGS).rows) == 200
        assert "a quote that is not closed skipped" in caplog.text

    def test_text_of_several_lines_is_kept(self, tmp_path: Path) -> None:
        text = "cpu,note\n" + '1,"first\nsecond"\n' * 50
        assert len(read_partition(csv(tmp_path, text), SETTINGS).rows) == 50

    def test_lines_that_end_with_carriage_returns(self, tmp_path: Path) -> None:
        assert len(read_partition(csv(tmp_path, "cpu,memory\r1,2\r3,4\r"), SETTINGS).rows) == 2

    @pytest.mark.parametrize("cell", ["12.5%", '"1,512.3"', "s"])
    def test_one_cell_with_a_unit_counts_as_missing(self, tmp_path: Path, cell: str) -> None:
        path = csv(tmp_path, f"load,temp\n{cell},1\n" + "12.5,1\n" * 200)
        outcome = read_partition(path, SETTINGS)
        assert outcome.schema.features == ("load", "temp") and np.isnan(outcome.rows).sum() == 1


class TestBadFiles:
    @pytest.mark.parametrize(
        ("content", "part"),
        [
            (b"", "cannot be read"),
            (b"cpu,memory\n", "no rows"),
            (b"cpu,cpu\n1,2\n", "columns named twice: 'cpu'"),
            (b"0.5,1\n2,3\n", "the header names column 1 '0.5'"),
            (b"host,0.5\nweb,3\n", "the header names column 2 '0.5'"),
            (b"host\nweb\n", "no numeric column to learn from; it has host"),
            (b"\xff\xfet\x00s\x00,\x00", "is encoded in UTF-16"),
            (b"c\x00p\x00u\x00\n\x001\x00", "contains zero bytes, as UTF-16"),
            (b"#separator \\x09\n#fields\tts\n", "a Zeek log"),
            (b"#group,false\n#datatype,string\n", "annotated CSV of InfluxDB"),
            (b"# only\n# comments\n", "no line with column names"),
            (b"cpu,memory\n" + b"1,2\n3\n" * 50, "row 2 has 1 cells, expected 2 (50 such rows)"),
            (b"ts,label\n1,0\n", "no numeric column"),
            (b"cpu;memory\n1;2\n", "separated by ';'"),
            (b"\x00\xff\xfe\x01" * 50, "cannot be read"),
            (b"cpu\xb0\n1\n", "cannot be read"),
            (b"cpu;memory\n1,5;2,5\n", "separated by ';'"),
            (b"\x1f\x8b\x08\x00", "expected the suffix .csv.gz"),
            (b"PK\x03\x04\x14", "a ZIP archive or a spreadsheet"),
            (b",result,table,_time,_value\n,,0,2026-01-01T00:00:00Z,1\n", "annotated CSV of InfluxDB"),
            (b"cpu,memory\n" + (b"1,2\n" * 10 + b'"1,2\n') * 3, "3 lines have a quote that is not closed"),
        ],
    )
    def test_csv(self, tmp_path: Path, content: bytes, part: str) -> None:
        path = tmp_path / "edge.csv"
        path.write_bytes(content)
        assert part in refusal(path)

    @pytest.mark.parametrize("name", ["edge.parquet", "edge.csv.gz"])
    def test_content_that_is_not_what_the_ending_says(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.write_text("cpu\n1\n")
        assert "cannot be read" in refusal(path)

    def test_parquet_without_rows(self, tmp_path: Path) -> None:
        assert "no rows" in refusal(parquet(tmp_path, cpu=pa.array([], pa.float32())))

    def test_no_file(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "edge.csv")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "is a folder" in refusal(tmp_path)

    def test_another_ending(self, tmp_path: Path) -> None:
        assert "expected the suffix .csv" in refusal(csv(tmp_path, "cpu\n1\n", "edge.txt"))


class TestBrokenLines:
    @pytest.mark.parametrize(
        "text",
        [
            "# logger 3\ncpu,memory\n1,2\n# pause\n3,4\n",
            "cpu,memory\n1,2\n3,4\n5",
            "cpu,memory\n1,2\n3,4\n\0\0\0\0",
            "cpu,memory,\n1,2,\n3,4,\n",
            "cpu,memory\n1,2,\n3,4,\n",
            "cpu,memory,\n1,2\n3,4\n",
            ",cpu,memory\n0,1,2\n1,3,4\n",
        ],
        ids=["comments", "cut short", "zeros", "comma", "comma in rows", "comma in header", "index"],
    )
    def test_are_skipped(self, tmp_path: Path, text: str) -> None:
        outcome = read_partition(csv(tmp_path, text), SETTINGS)
        assert outcome.schema.features == ("cpu", "memory")
        assert outcome.rows.tolist() == [[1, 2], [3, 4]]

    def test_few_in_the_middle_are_skipped_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = "cpu,memory\n" + "1,2\n" * 100 + "1,2,3\n" + "1,2\n" * 100
        assert len(read_partition(csv(tmp_path, text), SETTINGS).rows) == 200
        assert "row 101 has 3 cells, expected 2" in caplog.text


class TestFiles:
    def test_natural_order(self, tmp_path: Path) -> None:
        for name in (
            "server-10.csv",
            "server-2.parquet",
            "server-1.csv.gz",
            "²-old.csv",
            "README.md",
            ".x.csv",
        ):
            (tmp_path / name).touch()
        outcome = [path.name for path in data_files(tmp_path)]
        assert outcome == ["server-1.csv.gz", "server-2.parquet", "server-10.csv", "²-old.csv"]

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no data file in it"):
            data_files(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such folder"):
            data_files(tmp_path / "away")

    def test_two_files_of_one_client(self, tmp_path: Path) -> None:
        (tmp_path / "edge.csv").touch()
        (tmp_path / "edge.parquet").touch()
        with pytest.raises(DataError, match="both the data of client 'edge'"):
            data_files(tmp_path)

    @pytest.mark.parametrize("name", ["a.b.csv", "a.b.csv.gz", "a.b.parquet", "a.b"])
    def test_client_name(self, name: str) -> None:
        assert client_name(Path("folder") / name) == "a.b"


class TestPartition:
    def partition(self) -> Partition:
        rows = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
        return Partition("edge", Schema(("cpu", "memory")), rows[:1], rows[1:], np.array([0, 1], np.int8))

    def test_aligned_puts_the_columns_right(self) -> None:
        outcome = self.partition().aligned(Schema(("memory", "cpu")))
        assert outcome.schema.features == ("memory", "cpu")
        assert outcome.rows.tolist() == [[2, 1]]
        assert outcome.test_rows.tolist() == [[4, 3], [6, 5]]
        assert outcome.test_labels is not None and outcome.test_labels.tolist() == [0, 1]

    def test_aligned_names_the_client_and_the_columns(self) -> None:
        with pytest.raises(SchemaError, match=r"client 'edge'.*missing 'disk'; extra 'memory'"):
            self.partition().aligned(Schema(("cpu", "disk")))

    def test_write_and_read(self, tmp_path: Path) -> None:
        whole = self.partition()
        outcome = read_partition(write_partition(whole, tmp_path / "edge.parquet", SETTINGS), SETTINGS)
        assert (outcome.name, outcome.schema) == (whole.name, whole.schema)
        np.testing.assert_array_equal(outcome.rows, whole.rows)
        np.testing.assert_array_equal(outcome.test_rows, whole.test_rows)
        np.testing.assert_array_equal(outcome.test_labels, whole.test_labels)


class TestReadColumn:
    def test_training_and_test_values(self, tmp_path: Path) -> None:
        path = csv(tmp_path, "cpu,site,split\n1, a,0\n2,b,1\n3,a,0\n")
        training, test = read_column(path, "site", SETTINGS)
        assert (training.tolist(), test.tolist()) == (["a", "a"], ["b"])

    def test_numbers_become_text(self, tmp_path: Path) -> None:
        training, test = read_column(parquet(tmp_path, cpu=[1, 2], rack=[7, 8]), "rack", SETTINGS)
        assert (training.tolist(), test.tolist()) == (["7", "8"], [])

    def test_an_empty_cell(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"column 'site', row 2: an empty cell"):
            read_column(csv(tmp_path, "cpu,site\n1,a\n2,\n"), "site", SETTINGS)

    def test_an_unknown_column(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no column 'site'; it has cpu"):
            read_column(csv(tmp_path, "cpu\n1\n"), "site", SETTINGS)
