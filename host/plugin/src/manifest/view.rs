//! What a plugin and a source say to each other, as each of them says it.

use super::{Manifest, ManifestError, Met};
use crate::Limits;
use crate::budget::check_name;
use crate::settings::{Field, Setting};
use engraft_diagnostic::escape;
use engraft_weights::{Origin, Parameter, Part, Step};

impl Manifest {
    /// What is read of the model's config.
    pub(crate) fn model_fields(&self) -> Vec<Field> {
        self.fields.iter().map(|field| field.field.clone()).collect()
    }

    /// Resolved settings by the plugin's names.
    pub(crate) fn plugin_settings(&self, found: &[Setting]) -> Result<Vec<Setting>, ManifestError> {
        let mut settings = Vec::with_capacity(found.len());
        for Setting { path, value } in found {
            let Some(field) = self.fields.iter().find(|field| field.field.path == *path) else {
                settings.push(Setting { path: path.clone(), value: value.clone() });
                continue;
            };
            let (known, constant) = (field.known.clone(), field.constant.clone());
            let value = match (constant, value) {
                (None, value) => value.clone(),
                // The model's own architecture is known already; the plugin hears its own.
                (Some(constant), _) if self.is_architecture(&known) => Some(constant),
                (Some(constant), Some(value)) if constant != *value => {
                    return Err(ManifestError::Contradicted {
                        key: escape(path),
                        found: escape(&value.to_json().to_string()),
                        constant: escape(&constant.to_json().to_string()),
                    });
                }
                (constant, _) => constant,
            };
            settings.push(Setting { path: known, value });
        }
        Ok(settings)
    }

    fn is_architecture(&self, known: &str) -> bool {
        known == super::load::ARCHITECTURES
    }

    /// What the model's config calls a field of the plugin's.
    pub(crate) fn called_field<'a>(&'a self, known: &'a str) -> &'a str {
        let field = self.fields.iter().find(|field| field.known == known);
        field.map_or(known, |field| &field.field.path)
    }

    /// Makes the tensors that parameters are made of the model's.
    pub(crate) fn rename_parameters(
        &self,
        parameters: &mut [Parameter],
        met: &mut Met,
        limits: &Limits,
    ) -> Result<(), ManifestError> {
        for parameter in parameters {
            match &mut parameter.origin {
                Origin::Tensor(part) => self.rename_part(part, met, limits)?,
                Origin::Concat(joint) => {
                    joint.parts.iter_mut().try_for_each(|p| self.rename_part(p, met, limits))?;
                }
                Origin::Stack(pile) => {
                    let mut parts = pile.parts.iter_mut().flat_map(|joint| &mut joint.parts);
                    parts.try_for_each(|part| self.rename_part(part, met, limits))?;
                }
                Origin::Tied(_) => {}
            }
        }
        Ok(())
    }

    fn rename_part(
        &self,
        part: &mut Part,
        met: &mut Met,
        limits: &Limits,
    ) -> Result<(), ManifestError> {
        self.rename_tensor(&mut part.tensor, met, limits)?;
        for step in &mut part.steps {
            if let Step::Times(tensor) | Step::TimesTransposed(tensor) = step {
                self.rename_tensor(tensor, met, limits)?;
            }
        }
        Ok(())
    }

    fn rename_tensor(
        &self,
        tensor: &mut String,
        met: &mut Met,
        limits: &Limits,
    ) -> Result<(), ManifestError> {
        let renamed = self.tensors.apply(tensor)?;
        met.used.resize(self.tensors.0.len(), false);
        if let Some(by) = renamed.by {
            met.used[by] = true;
        }
        check_name(&renamed.name, limits)
            .map_err(|why| ManifestError::Malformed { rename: escape(tensor), why })?;
        let known = std::mem::replace(tensor, renamed.name.clone());
        match met.tensors.insert(renamed.name.clone(), known.clone()) {
            Some(first) if first != known => Err(ManifestError::Clash {
                first: escape(&first),
                second: escape(&known),
                called: escape(&renamed.name),
                table: "tensors",
            }),
            _ => Ok(()),
        }
    }

    /// The model's tensors that are left out on purpose: the plugin's globs and the manifest's.
    pub(crate) fn rename_unused(
        &self,
        plugins: Vec<(String, String)>,
        met: &mut Met,
    ) -> Result<Vec<(String, String)>, ManifestError> {
        met.used.resize(self.tensors.0.len(), false);
        let mut all = Vec::with_capacity(plugins.len() + self.unused.len());
        for (glob, reason) in plugins {
            let renamed = self.tensors.apply(&glob)?;
            if let Some(by) = renamed.by {
                met.used[by] = true;
            }
            all.push((renamed.name, reason));
        }
        all.extend(self.unused.iter().cloned());
        Ok(all)
    }

    /// A rename that is about none of the plugin's tensors may be for a part that this model has
    /// not; where the model has what it leads to, it is a mistake. Answers with the idle ones.
    pub(crate) fn check_renames<'n>(
        &self,
        met: &Met,
        tensors: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<Vec<String>, ManifestError> {
        let mut idle = Vec::new();
        for (i, rename) in self.tensors.0.iter().enumerate() {
            if met.used.get(i) == Some(&true) {
                continue;
            }
            let strange = |name: &&str| rename.leads_to(name) && !met.tensors.contains_key(*name);
            if let Some(found) = tensors.clone().find(strange) {
                let (known, found) = (escape(rename.known()), escape(found));
                return Err(ManifestError::NoTensor { known, found });
            }
            idle.push(rename.known().to_owned());
        }
        Ok(idle)
    }
}
