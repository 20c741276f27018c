//! What was found out about weights, on disk, a file a weight: memory does not grow with the
//! model, and a run that was interrupted goes on where it was.

use engraft_files::{FileError, SafetensorsWriter, TensorEntry, digest, header};
use engraft_ir::DType;
use engraft_quant::{QuantError, Role, Stored, Tensors, stored::WEIGHT};
use engraft_weights::{Cut, Provider, Supply, WeightError};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file that says what the others were made of.
const FACTS: &str = "facts";

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// A tensor of a weight, to be stored: what it is, its elements' type, its elements.
pub(crate) type Tensor = (Role, DType, Vec<u8>);

/// A directory of quantised weights.
pub struct Spill {
    directory: PathBuf,
}

impl Spill {
    /// The store in `directory`, which is made where there is none. What an earlier run left stays
    /// if `facts`, all that decides about the numbers, are the same; else it goes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(directory: &Path, facts: &str) -> Result<Spill, FileError> {
        let digest = digest::blake3_hex(facts.as_bytes());
        let path = directory.join(FACTS);
        let known = fs::read_to_string(&path).is_ok_and(|known| known == digest);
        if !known {
            if directory.exists() {
                fs::remove_dir_all(directory).map_err(FileError::io("remove", directory))?;
            }
            fs::create_dir_all(directory).map_err(FileError::io("create", directory))?;
            fs::write(&path, &digest).map_err(FileError::io("write", &path))?;
        }
        Ok(Spill { directory: directory.to_owned() })
    }

    /// Takes the store away.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(self) -> Result<(), FileError> {
        fs::remove_dir_all(&self.directory).map_err(FileError::io("remove", &self.directory))
    }

    fn path(&self, weight: &str) -> PathBuf {
        self.directory.join(format!("{weight}.safetensors"))
    }

    /// Whether a weight is there.
    pub(crate) fn has(&self, weight: &str) -> bool {
        self.path(weight).exists()
    }

    /// Stores a weight, whole or not at all.
    pub(crate) fn put(
        &self,
        stored: &Stored,
        weight: &str,
        tensors: &[Tensor],
        report: &str,
    ) -> Result<(), FileError> {
        let path = self.path(weight);
        let partial = path.with_extension("partial");
        let misuse = |what: &str| FileError::Misuse { path: path.clone(), what: what.to_owned() };
        let layout = layout(stored, weight).ok_or_else(|| misuse("it is not quantised"))?;
        let mut declared = Vec::new();
        for (role, name, shape) in &layout {
            let found = tensors.iter().find(|(found, ..)| found == role);
            let (_, dtype, _) = found.ok_or_else(|| misuse(&format!("it has no {name}")))?;
            declared.push((name.clone(), *dtype, shape.clone()));
        }
        let report = BTreeMap::from([("report".to_owned(), report.to_owned())]);
        let writer = SafetensorsWriter::create(&partial, report, declared, 1)?;
        for (role, name, _) in &layout {
            for (_, _, bytes) in tensors.iter().filter(|(found, ..)| found == role) {
                writer.put(name, bytes)?;
            }
        }
        writer.sync()?;
        writer.finish()?;
        fs::rename(&partial, &path).map_err(FileError::io("rename", &partial))
    }

    /// All that is known of a weight: its tensors, each with its elements, and what was reported.
    pub(crate) fn get(
        &self,
        stored: &Stored,
        weight: &str,
    ) -> Result<(Vec<Tensor>, String), WeightError> {
        let mut tensors = Vec::new();
        let path = self.path(weight);
        let (file, header) = header::read(&path).map_err(|e| unreadable(&path, e))?;
        for (role, name, _) in layout(stored, weight).unwrap_or_default() {
            let parameter = || WeightError::Unknown { parameter: name.clone() };
            let entry = header.tensors.get(&name).ok_or_else(parameter)?;
            let mut bytes = vec![0; (entry.end - entry.start) as usize];
            file.read_exact_at(&mut bytes, entry.start).map_err(FileError::io("read", &path))?;
            tensors.push((role, entry.dtype, bytes));
        }
        let report = header.metadata.get("report").cloned().unwrap_or_default();
        Ok((tensors, report))
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> FileError {
    FileError::Misuse { path: path.to_owned(), what: error.to_string() }
}

/// The tensors of a weight: what each is, its name, its shape.
fn layout(stored: &Stored, weight: &str) -> Option<Vec<(Role, String, Vec<u64>)>> {
    let coded = stored.get(weight)?;
    let module = weight.strip_suffix(WEIGHT)?;
    let tensors = coded.tensors(weight, &Cut::whole(&coded.shape)).ok()?.into_iter();
    Some(
        tensors
            .map(|(role, suffix, cut)| (role, format!("{module}{suffix}"), cut.shape()))
            .collect(),
    )
}

/// Provides the tensors of quantised weights from a store, and all others from elsewhere.
pub struct Calibrated<'a> {
    plain: &'a dyn Provider,
    spill: &'a Spill,
    tensors: Tensors<'a>,
}

impl<'a> Calibrated<'a> {
    /// The weights of `plain`, of which those that are `stored` are in `spill`; scales of inputs
    /// are of `dtype`.
    ///
    /// # Errors
    /// A weight that is cut within what only makes sense whole.
    pub fn new(
        plain: &'a dyn Provider,
        stored: &'a Stored,
        spill: &'a Spill,
        dtype: DType,
    ) -> Result<Calibrated<'a>, QuantError> {
        Ok(Calibrated { plain, spill, tensors: Tensors::new(plain, stored, dtype)? })
    }
}

impl Provider for Calibrated<'_> {
    fn names(&self) -> &[String] {
        &self.tensors.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        let made = self.tensors.made.get(name).map(|made| &made.supply);
        made.or_else(|| self.plain.get(name))
    }

    fn held(&self, name: &str) -> u64 {
        match self.tensors.made.get(name) {
            Some(made) => made.supply.bytes().min(PIECE),
            None => self.plain.held(name),
        }
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let Some(made) = self.tensors.made.get(name) else {
            return self.plain.stream(name, sink);
        };
        let path = self.spill.path(made.weight);
        let (file, header) = header::read(&path).map_err(|e| unreadable(&path, e))?;
        let fits = |entry: &&TensorEntry| {
            (entry.dtype, &entry.shape) == (made.supply.dtype, &made.supply.shape())
        };
        let entry = header.tensors.get(name).filter(fits);
        let entry = entry.ok_or_else(|| unreadable(&path, format!("it has another {name}")))?;
        let mut piece = Vec::new();
        for at in (entry.start..entry.end).step_by(PIECE as usize) {
            piece.resize((entry.end - at).min(PIECE) as usize, 0);
            file.read_exact_at(&mut piece, at).map_err(FileError::io("read", &path))?;
            sink(&piece)?;
        }
        Ok(())
    }
}
