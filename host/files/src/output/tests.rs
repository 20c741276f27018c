//! An output is there whole, or it is not there.

use super::*;

fn put(output: &OutputDir, name: &str, text: &str) {
    fs::write(output.path().join(name), text).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    entries(directory)
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn nothing_is_under_the_final_name_before_the_commit() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("deep/er/out");
    let output = OutputDir::create(&target, false).unwrap();
    put(&output, "config.json", "{}");
    assert!(!target.exists());
    assert_eq!(names(target.parent().unwrap()), [".out.partial"]);
    output.commit().unwrap();
    assert_eq!(names(target.parent().unwrap()), ["out"]);
    assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "{}");
}

#[test]
fn an_output_that_is_given_up_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let output = OutputDir::create(&root.path().join("out"), false).unwrap();
    put(&output, "rank0.engine", "half");
    drop(output);
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_full_directory_is_refused_before_any_work_and_replaced_by_force() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("rank0.engine"), "old").unwrap();
    let refused = OutputDir::create(&target, false);
    assert!(matches!(refused, Err(FileError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(names(root.path()), ["out"]);
    let output = OutputDir::create(&target, true).unwrap();
    put(&output, "new", "new");
    assert_eq!(names(&target), ["rank0.engine"], "the old output stands until the commit");
    output.commit().unwrap();
    assert_eq!(names(&target), ["new"]);
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn an_empty_directory_is_used_also_as_the_current_one() {
    let root = tempfile::tempdir().unwrap();
    let output = OutputDir::create(&root.path().join("./x/../."), false);
    // `x` does not exist, so that is no path at all.
    assert!(output.is_err());
    let target = root.path().join("out");
    fs::create_dir(&target).unwrap();
    let output = OutputDir::create(&target.join("."), false).unwrap();
    put(&output, "a", "a");
    output.commit().unwrap();
    assert_eq!(names(&target), ["a"]);
}

#[test]
fn force_never_removes_a_directory_that_holds_directories() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("home/photos")).unwrap();
    let refused = OutputDir::create(&root.path().join("home"), true);
    assert!(
        matches!(refused, Err(FileError::NotOurs { ref reason, .. }) if reason.contains("photos"))
    );
    assert_eq!(names(&root.path().join("home")), ["photos"]);
}

#[test]
fn force_never_removes_what_holds_no_weights_of_ours() {
    let root = tempfile::tempdir().unwrap();
    for name in ["thesis.tex", "config.json", "model.safetensors", "rank.engine", "rankX.engine"] {
        fs::write(root.path().join(name), "").unwrap();
        let refused = OutputDir::create(root.path(), true);
        assert!(matches!(refused, Err(FileError::NotOurs { .. })), "{name}: {refused:?}");
    }
    fs::write(root.path().join("rank12.safetensors"), "").unwrap();
    OutputDir::create(root.path(), true).unwrap();
}

#[test]
fn a_link_to_nothing_is_refused_before_any_work() {
    let root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
    for path in ["link", "link/out"] {
        let refused = OutputDir::create(&root.path().join(path), false);
        assert!(matches!(refused, Err(FileError::NotADirectory { .. })), "{path}: {refused:?}");
    }
}

#[test]
fn a_file_in_the_way_is_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    fs::write(&target, "").unwrap();
    let refused = OutputDir::create(&target, true);
    assert!(matches!(refused, Err(FileError::NotADirectory { .. })), "{refused:?}");
    // And a file among the parents.
    let refused = OutputDir::create(&target.join("deeper"), true);
    assert!(matches!(refused, Err(FileError::Io { .. })), "{refused:?}");
    assert!(matches!(OutputDir::create(Path::new("/"), true), Err(FileError::NoName { .. })));
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_any_work() {
    // No one may make a directory there, not even root.
    let refused = OutputDir::create(Path::new("/proc/out"), false);
    let Err(error) = refused else { panic!("{refused:?}") };
    assert!(matches!(error, FileError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn someone_who_was_faster_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    let output = OutputDir::create(&target, false).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("theirs"), "").unwrap();
    assert!(matches!(output.commit(), Err(FileError::NotEmpty { .. })));
    assert_eq!(names(&target), ["theirs"]);
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn into_a_mount_point_files_are_moved_and_the_key_file_last() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().to_owned();
    fs::write(target.join("rank0.safetensors"), "old").unwrap();
    let mut output = OutputDir::create(&target, true).unwrap();
    // As if `target` were one: the hidden directory is inside.
    drop(fs::remove_dir_all(&output.partial));
    output.partial = target.join(".partial");
    fs::create_dir(&output.partial).unwrap();
    output.mounted = true;
    put(&output, "config.json", "{}");
    put(&output, "weights", "1");
    output.commit().unwrap();
    assert_eq!(names(&target), ["config.json", "weights"]);
}

#[test]
fn two_outputs_do_not_share_a_hidden_directory() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    let one = OutputDir::create(&target, false).unwrap();
    for force in [false, true] {
        let two = OutputDir::resume(&target, force);
        assert!(matches!(two, Err(FileError::Busy { .. })), "{two:?}");
    }
    put(&one, "config.json", "{}");
    drop(one);
    assert!(names(root.path()).is_empty());
    OutputDir::create(&target, false).unwrap().commit().unwrap();
}

#[test]
fn what_a_killed_run_left_is_there_again_unless_forced() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    let partial = root.path().join(".out.partial");
    let leave = || {
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("rank0.engine"), "half").unwrap();
        fs::write(partial.join(JOURNAL), "").unwrap();
    };
    leave();
    let output = OutputDir::resume(&target, false).unwrap();
    assert_eq!(names(output.path()), [JOURNAL, "rank0.engine"]);
    output.commit().unwrap();
    assert_eq!(names(&target), ["rank0.engine"], "the journal does not stay");
    leave();
    let output = OutputDir::resume(&target, true).unwrap();
    assert!(names(output.path()).is_empty());
    drop(output);
    leave();
    fs::remove_dir_all(&target).unwrap();
    let output = OutputDir::create(&target, false).unwrap();
    assert!(names(output.path()).is_empty());
    drop(output);
    assert!(names(root.path()).is_empty(), "nobody interrupted it");
}
