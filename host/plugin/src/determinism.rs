//! Tries to make a plugin contradict itself.

use crate::error::{PluginError, Problem, Refusal};
use crate::load::Plugin;
use crate::session::Session;
use crate::settings::Setting;
use engraft_ir::{DType, PlaceKind};
use engraft_weights::Parameter;

impl Plugin {
    /// Opens the same model in two fresh sessions and asks the same questions, in the second one
    /// twice and in another order. Every answer must be the same, the graph's text too.
    ///
    /// # Errors
    /// [`PluginError`] where two answers differ, or a question has none.
    pub fn check_determinism(
        &self,
        dialect: &str,
        settings: &[Setting],
    ) -> Result<Result<(), Refusal>, PluginError> {
        let differ = |function, what: &str| {
            let what = format!("{what} differed between two runs with the same settings");
            self.error(function, Problem::Nondeterministic(what))
        };
        let (mut first, mut second) = (self.session()?, self.session()?);
        for session in [&mut first, &mut second] {
            if let Err(refusal) = session.open(settings)? {
                return Ok(Err(refusal));
            }
        }
        if first.fields()? != second.fields()? || second.fields()? != first.fields()? {
            return Err(differ("fields", "the declared fields"));
        }
        if first.outline()? != second.outline()? {
            return Err(differ("outline", "the outline"));
        }
        let places: Vec<PlaceKind> = first.outline()?.places().collect();
        let back: Vec<PlaceKind> = places.iter().rev().copied().collect();
        let forward = all_parameters(&mut first, &places, dialect)?;
        for order in [&back, &places] {
            for (place, answer) in all_parameters(&mut second, order, dialect)? {
                if forward.iter().any(|(at, known)| *at == place && !same(known, &answer)) {
                    return Err(differ("parameters", "the parameters").at(place));
                }
            }
        }
        let texts = [&mut first, &mut second].map(|s| s.write(&|_, _| DType::F32));
        let [one, two] = texts.map(|graph| graph.map(|graph| graph.to_string()));
        let (one, two) = (one?, two?);
        if let Some((was, is)) = one.lines().zip(two.lines()).find(|(was, is)| was != is) {
            let what = format!("the graph (`{}`, then `{}`)", shown(was), shown(is));
            return Err(differ("write", &what));
        }
        if one != two {
            return Err(differ("write", "the graph's length"));
        }
        Ok(Ok(()))
    }
}

fn all_parameters(
    session: &mut Session,
    places: &[PlaceKind],
    dialect: &str,
) -> Result<Vec<(PlaceKind, Vec<Parameter>)>, PluginError> {
    places.iter().map(|&place| Ok((place, session.parameters(place, dialect)?))).collect()
}

/// A line of a graph's text without its comment.
fn shown(line: &str) -> &str {
    line.split(" ;").next().unwrap_or(line).trim()
}

/// Equality by what is printed, so that a NaN in a step equals itself.
fn same(left: &[Parameter], right: &[Parameter]) -> bool {
    format!("{left:?}") == format!("{right:?}")
}
