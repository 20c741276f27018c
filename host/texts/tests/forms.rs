//! Each form in which texts come, and that the same come again.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::path::{Path, PathBuf};

use engraft_texts::{Texts, Wanted, read};

const ALL: Wanted = Wanted { texts: 1000, bytes: 1 << 20, seed: None };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder with files of these names and contents.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// The texts of a path, which are the same when read again.
fn texts(path: &Path, wanted: &Wanted) -> Vec<String> {
    let once = read(path, wanted).unwrap();
    assert_eq!(read(path, wanted).unwrap(), once);
    once.texts
}

/// What `make.py` writes as `rows(count, word)`, without nulls.
fn rows(count: usize, word: &str) -> Vec<String> {
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let row = |i: usize| match i {
        1 => format!("{word} text 1: Füße, 東京, 🦀"),
        _ => format!("{word} text {i}: {}", words[..i % 10 + 1].join(" ")),
    };
    (0..count).filter(|i| i % 5 != 4).map(row).collect()
}

#[test]
fn a_text_file_is_one_text_without_its_mark() {
    let folder = folder(&[("a.txt", "\u{feff}Füße\nand more\n"), ("b", "no ending")]);
    assert_eq!(texts(&folder.path().join("a.txt"), &ALL), ["Füße\nand more\n"]);
    assert_eq!(texts(&folder.path().join("b"), &ALL), ["no ending"]);
}

#[test]
fn a_long_file_is_read_up_to_what_is_wanted() {
    let folder = folder(&[("a.txt", &"é".repeat(1000))]);
    let wanted = Wanted { bytes: 101, ..ALL };
    assert_eq!(texts(&folder.path().join("a.txt"), &wanted), ["é".repeat(50)]);
    // What lies behind is not even looked at.
    let bytes = [b"abcd".as_slice(), &[0xff; 10]].concat();
    fs::write(folder.path().join("b.txt"), bytes).unwrap();
    assert_eq!(
        texts(&folder.path().join("b.txt"), &Wanted { texts: 1, bytes: 4, ..ALL }),
        ["abcd"]
    );
}

#[test]
fn files_of_a_folder_come_by_name_and_share_the_bytes() {
    let files =
        [("b.md", "second"), ("a.txt", "first"), ("c/d.txt", "third"), (".git/x", "hidden")];
    let folder = folder(&files);
    assert_eq!(texts(folder.path(), &ALL), ["first", "second", "third"]);
    let wanted = Wanted { bytes: 12, ..ALL };
    assert_eq!(texts(folder.path(), &wanted), ["firs", "seco", "thir"]);
    let wanted = Wanted { texts: 2, bytes: 8, ..ALL };
    let read = read(folder.path(), &wanted).unwrap();
    assert_eq!(read.texts, ["firs", "seco"]);
    assert_eq!(read.files, [folder.path().join("a.txt"), folder.path().join("b.md")]);
}

#[test]
fn a_seed_shuffles_what_was_read() {
    let lines: String = (0..50).map(|i| format!("{{\"text\": \"{i}\"}}\n")).collect();
    let folder = folder(&[("a.jsonl", &lines)]);
    let wanted = Wanted { texts: 10, ..ALL };
    let plain = texts(folder.path(), &wanted);
    assert_eq!(plain, (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
    let mut shuffled = texts(folder.path(), &Wanted { seed: Some(3), ..wanted });
    assert_ne!(shuffled, plain);
    shuffled.sort();
    assert_eq!(shuffled, plain);
}

#[test]
fn json_lines_give_the_first_field_that_is_there() {
    let lines = concat!(
        "\u{feff}{\"id\": 1, \"content\": \"c\", \"text\": \"a \\u00e9\"}\n\n",
        "{\"article\": \"b\", \"content\": [\"not\", {\"this\": 1}]}\r\n",
        "{\"text\": 5, \"content\": \"c\"}\n",
        "{\"text\": null}\n",
        "{\"text\": \" \"}\n",
        "{\"content\": \"last\"}",
    );
    let folder = folder(&[("a.jsonl", lines), ("b.json", lines), ("c.ndjson", lines)]);
    for name in ["a.jsonl", "b.json", "c.ndjson"] {
        assert_eq!(texts(&folder.path().join(name), &ALL), ["a é", "b", "c", "last"]);
    }
    // No line behind the last that is wanted is parsed.
    fs::write(folder.path().join("d.jsonl"), "{\"text\": \"a\"}\nnonsense").unwrap();
    let wanted = Wanted { texts: 1, ..ALL };
    assert_eq!(texts(&folder.path().join("d.jsonl"), &wanted), ["a"]);
}

#[test]
fn an_array_of_objects_is_read_too() {
    let array = "\n [\n  {\"text\": \"a, [b]\"},\n  {\"x\": {\"y\": []}, \"article\": \"c\"}\n]\n";
    let folder = folder(&[("a.json", array), ("b.jsonl", "[]")]);
    assert_eq!(texts(&folder.path().join("a.json"), &ALL), ["a, [b]", "c"]);
    assert_eq!(texts(folder.path(), &Wanted { texts: 1, ..ALL }), ["a, [b]"]);
}

#[test]
fn parquet_is_read_in_each_codec() {
    for codec in ["none", "snappy", "zstd", "gzip"] {
        let path = fixture(&format!("{codec}.parquet"));
        assert_eq!(texts(&path, &ALL), rows(20, "table"), "{codec}");
        assert_eq!(texts(&path, &Wanted { texts: 9, ..ALL }), rows(20, "table")[..9], "{codec}");
    }
    // `article` stands behind `content` in the file, and goes before it.
    assert_eq!(texts(&fixture("plain_pages.parquet"), &ALL), rows(5, "article"));
}

#[test]
fn arrow_is_read_behind_columns_of_every_kind() {
    assert_eq!(texts(&fixture("wide.arrow"), &ALL), rows(20, "table"));
    assert_eq!(texts(&fixture("random_access.arrow"), &ALL), rows(20, "table"));
    let wanted = Wanted { texts: 3, bytes: 3 * 19, seed: None };
    let cut = ["table text 0: one", "table text 1: Füß", "table text 2: one t"];
    assert_eq!(texts(&fixture("wide.arrow"), &wanted), cut);
}

#[test]
fn a_saved_data_set_gives_its_split_train() {
    let saved = fixture("saved");
    let Texts { texts, files } = read(&saved, &ALL).unwrap();
    assert_eq!(texts, rows(12, "train"));
    let names = ["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"];
    assert_eq!(files, names.map(|name| saved.join(name)));
    // Of a split itself, and of one file.
    assert_eq!(self::texts(&saved.join("test"), &ALL), rows(12, "test"));
    assert_eq!(self::texts(&saved.join("train"), &Wanted { texts: 2, ..ALL }).len(), 2);
}

#[test]
fn a_data_set_of_the_hub_gives_its_split_train() {
    let line = |text: &str| format!("{{\"text\": \"{text}\"}}");
    let (a, b, c) = (line("a"), line("b"), line("c"));
    let files = [
        ("README.md", "what it is"),
        ("dataset_infos.json", "{}"),
        ("en/train-00001-of-00002.jsonl", b.as_str()),
        ("en/train-00000-of-00002.jsonl", a.as_str()),
        ("en/test-00000-of-00001.jsonl", c.as_str()),
    ];
    assert_eq!(texts(folder(&files).path(), &ALL), ["a", "b"]);
    assert_eq!(texts(folder(&files[4..]).path(), &ALL), ["c"]);
    let constraints = [("constrained.jsonl", a.as_str()), ("d.jsonl", b.as_str())];
    assert_eq!(texts(folder(&constraints).path(), &ALL), ["a", "b"]);
    // A table goes before lines; what `map` left is no part of it.
    let mixed = folder(&[("train.jsonl", &a)]);
    fs::create_dir(mixed.path().join("data")).unwrap();
    let table = mixed.path().join("data/train-00000-of-00001.parquet");
    fs::copy(fixture("snappy.parquet"), &table).unwrap();
    fs::write(mixed.path().join("data/cache-123.arrow"), "").unwrap();
    assert_eq!(texts(mixed.path(), &ALL), rows(20, "table"));
    // As in the hub's cache, where files have no endings.
    let blob = mixed.path().join("blob");
    fs::rename(&table, &blob).unwrap();
    assert_eq!(texts(&blob, &ALL), rows(20, "table"));
}
