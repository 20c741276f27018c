//! Whether a plugin says the same of a model in every dialect.
//!
//! A dialect is how a source spells tensors, and nothing more: a parameter's name, axes and
//! precision belong to the checkpoint, which has no dialect. So a graph can be written from the
//! parameters of any one dialect and filled from a source in another.

use crate::error::{PluginError, Problem, Refusal};
use crate::load::Plugin;
use crate::settings::Setting;
use engraft_diagnostic::escape;
use engraft_ir::display_axes;
use engraft_weights::{Origin, Parameter, Precision};

impl Plugin {
    /// Opens a model and compares its parameters, place by place, in all dialects of the plugin.
    ///
    /// # Errors
    /// [`PluginError`] at the first place where two dialects disagree, saying about what; or
    /// where a question has no answer.
    pub fn check_dialects(&self, settings: &[Setting]) -> Result<Result<(), Refusal>, PluginError> {
        let Some((first, others)) = self.identity().dialects.split_first() else {
            return Ok(Ok(()));
        };
        let mut session = self.session()?;
        if let Err(refusal) = session.open(settings)? {
            return Ok(Err(refusal));
        }
        for place in session.outline()?.places() {
            let known = session.parameters(place, first)?;
            for other in others {
                let found = session.parameters(place, other)?;
                if let Some(what) = difference((first, &known), (other, &found)) {
                    return Err(self.error("parameters", Problem::Answer(what)).at(place));
                }
            }
        }
        Ok(Ok(()))
    }
}

/// What two dialects say differently, if anything.
fn difference(
    (one, known): (&str, &[Parameter]),
    (other, found): (&str, &[Parameter]),
) -> Option<String> {
    for i in 0..known.len().max(found.len()) {
        let (left, right) = (known.get(i).map(described), found.get(i).map(described));
        if left != right {
            let [left, right] = [left, right].map(|p| p.unwrap_or_else(|| "nothing".into()));
            let (one, other) = (escape(one), escape(other));
            return Some(format!("parameter {i} is {left} in {one} and {right} in {other}"));
        }
    }
    None
}

/// All of a parameter that is no dialect's business.
fn described(parameter: &Parameter) -> String {
    let Parameter { name, origin, precision } = parameter;
    let kept = match precision {
        Precision::Any => "",
        Precision::Keep => ", never quantised",
        Precision::Single => ", in single precision",
    };
    let what = match (origin, origin.axes()) {
        (Origin::Tied(to), _) => format!("tied to `{}`", escape(to)),
        (_, Ok(axes)) => display_axes(&axes.unwrap_or_default()),
        (_, Err(why)) => format!("({why})"),
    };
    format!("`{}` {what}{kept}", escape(name))
}
