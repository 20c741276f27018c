//! What is no text gets its own error, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::path::{Path, PathBuf};

use engraft_diagnostic::Diagnostic;
use engraft_texts::{TextsError, Wanted, read};

const ALL: Wanted = Wanted { texts: 1000, bytes: 1 << 20, seed: None };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The error of a file with these contents: its code, what it says, and where.
fn refused(name: &str, contents: &[u8]) -> (u16, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, contents).unwrap();
    let error = read(&path, &ALL).unwrap_err();
    assert!(error.help().is_some());
    assert_eq!(error.fault().exit_code(), 3);
    let location = error.location().unwrap();
    assert!(location.contains(name), "{location}");
    (error.code().0, error.to_string(), location)
}

#[test]
fn what_is_not_there_is_not_found() {
    let error = read(Path::new("/no/such/place"), &ALL).unwrap_err();
    assert_eq!(error.code().0, 11);
    let error = read(Path::new("/dev/null"), &ALL).unwrap_err();
    assert!(matches!(error, TextsError::NotAFile { .. }));
    assert_eq!(error.code().0, 958);
}

#[test]
fn nothing_and_blanks_are_no_texts() {
    let files: [(&str, &[u8]); 6] = [
        ("a.txt", b""),
        ("b.txt", b" \n\n\t"),
        ("c.jsonl", b"\n\n"),
        ("d.json", b"[]"),
        ("e.jsonl", b"{\"text\": \"\"}\n{\"text\": null}"),
        ("f.txt", b"\xef\xbb\xbf"),
    ];
    for (name, contents) in files {
        assert_eq!(refused(name, contents).0, 950, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read(folder.path(), &ALL).unwrap_err().code().0, 950);
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::write(folder.path().join("dataset_dict.json"), "{}").unwrap();
    assert_eq!(read(folder.path(), &ALL).unwrap_err().code().0, 950);
}

#[test]
fn another_encoding_is_refused_with_the_byte() {
    let (code, what, _) = refused("a.txt", b"caf\xe9 noir");
    assert_eq!(code, 951);
    assert!(what.ends_with("is not UTF-8: byte 3 cannot be"), "{what}");
    assert_eq!(refused("b.txt", "caf\u{e9}".as_bytes()[..4].as_ref()).0, 951);
    let (_, what, _) = refused("c.txt", b"\xef\xbb\xbfab\xff");
    assert!(what.contains("byte 5"), "{what}");
}

#[test]
fn a_line_that_is_no_object_is_named() {
    let good = "{\"text\": \"a\"}\n";
    for bad in ["nonsense", "{\"text\": \"b\"", "[1]", "5", "{\"text\": \"\u{1}\"}", "{} {}"] {
        let (code, what, location) = refused("a.jsonl", format!("{good}\n{bad}\n").as_bytes());
        assert_eq!(code, 952, "{bad}: {what}");
        assert!(what.starts_with("line 3 is no JSON object: "), "{what}");
        assert!(location.ends_with("a.jsonl, line 3"), "{location}");
    }
    assert_eq!(refused("a.jsonl", b"{\"text\": \"\xff\"}").0, 952);
    for bad in ["[{\"text\": \"a\"}, 5]", "[{\"text\": \"a\"}", "[{\"text\": \"a\"},", "[{},,]"] {
        let (code, what, _) = refused("a.json", bad.as_bytes());
        assert!(code == 952 || code == 953, "{bad}: {what}");
        assert!(what.starts_with("element "), "{what}");
    }
    // Deep nesting costs no stack.
    let deep = format!("{{\"text\": {}", "[".repeat(1 << 20));
    assert_eq!(refused("a.jsonl", deep.as_bytes()).0, 952);
}

#[test]
fn a_line_without_a_text_says_what_it_has() {
    let (code, what, location) =
        refused("a.jsonl", b"{\"text\": \"a\"}\n{\"id\": 1, \"body\": \"b\"}");
    assert_eq!(code, 953);
    assert_eq!(what, "line 2 has no text: its fields are `id`, `body`");
    assert!(location.ends_with("line 2"), "{location}");
    assert_eq!(refused("a.json", b"[{}]").1, "element 1 has no text: its fields are none");
}

#[test]
fn a_table_without_texts_says_what_it_has() {
    let error = read(&fixture("no_column.parquet"), &ALL).unwrap_err();
    assert_eq!(error.code().0, 954);
    let what = "no column holds texts: there are `text: INT64`, `body: STRING`";
    assert_eq!(error.to_string(), what);
    let error = read(&fixture("no_column.arrow"), &ALL).unwrap_err();
    assert_eq!(error.code().0, 954);
    let what = "no column holds texts: there are `body: string`, `text: list`";
    assert_eq!(error.to_string(), what);
    let help = error.help().unwrap();
    assert!(help.contains("`text`, `article` or `content`"), "{help}");
}

#[test]
fn compressed_arrow_is_refused() {
    let error = read(&fixture("compressed.arrow"), &ALL).unwrap_err();
    assert_eq!(error.code().0, 956);
    assert!(error.to_string().contains("compressed"), "{error}");
}

#[test]
fn a_parquet_file_that_is_cut_anywhere_is_refused() {
    let whole = fs::read(fixture("snappy.parquet")).unwrap();
    for size in (0..whole.len()).step_by(37) {
        assert_eq!(refused("a.parquet", &whole[..size]).0, 955, "{size} bytes");
    }
}

/// Files of ten gigabytes, which take no disk: of each only a beginning is read.
#[test]
fn a_file_is_not_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in
        [("a.txt", None), ("a.jsonl", Some(957)), ("a.parquet", Some(955)), ("a.arrow", Some(956))]
    {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(10 << 30).unwrap();
        let result = read(&path, &ALL);
        assert_eq!(result.as_ref().err().map(|error| error.code().0), code, "{name}");
        if let Ok(texts) = result {
            assert_eq!(texts.texts[0].len(), ALL.bytes);
        }
    }
}

/// Every cut gives an error or, between two messages, the texts before it.
#[test]
fn an_arrow_file_that_is_cut_anywhere_is_refused() {
    let whole = fs::read(fixture("wide.arrow")).unwrap();
    let all = read(&fixture("wide.arrow"), &ALL).unwrap().texts;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.arrow");
    let mut refusals = 0;
    let sizes = (0..whole.len()).step_by(7);
    for size in sizes.clone() {
        fs::write(&path, &whole[..size]).unwrap();
        let result = read(&path, &ALL);
        fs::remove_file(&path).unwrap();
        match result {
            Ok(texts) => assert_eq!(texts.texts, all[..texts.texts.len()]),
            Err(error) => {
                refusals += 1;
                assert!([950, 956].contains(&error.code().0), "{size} bytes: {error}");
            }
        }
    }
    assert!(refusals + 10 > sizes.len(), "{refusals} of {}", sizes.len());
}

/// Bytes that lie may give other texts or an error, but no panic and no large memory.
#[test]
fn tables_with_any_byte_changed_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["wide.arrow", "random_access.arrow", "snappy.parquet", "gzip.parquet"];
    for name in names.into_iter().chain(["zstd.parquet", "plain_pages.parquet"]) {
        let whole = fs::read(fixture(name)).unwrap();
        let path = folder.path().join(name);
        for at in 0..whole.len() {
            // Each byte becomes one of these, in turn.
            let mut bytes = whole.clone();
            bytes[at] = [0xff, bytes[at] ^ 1, 0x00, 0x80, 0x7f][at % 5];
            fs::write(&path, &bytes).unwrap();
            let result = read(&path, &Wanted { texts: 30, bytes: 3000, seed: None });
            // A new file each time: some file systems flush what is written over another.
            fs::remove_file(&path).unwrap();
            if let Ok(texts) = result {
                assert!(texts.texts.iter().all(|text| text.len() <= 100), "{name}, {at}");
            }
        }
    }
}
