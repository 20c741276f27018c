//! Every parameter with the tensors that it is made of, and their shapes through all steps.
//!
//! ```text
//! blocks 0 to 2
//!   attention.qkv.weight [192 + 64 key_heads + 64 key_heads, 192]
//!        = model.layers.N.self_attn.q_proj.weight [192, 192]
//!       ++ model.layers.N.self_attn.k_proj.weight [64, 192]
//! ```

use engraft_convert::Pipeline;
use engraft_diagnostic::escape;
use engraft_ir::{PlaceKind, display_axes};
use engraft_weights::{Origin, Parameter, Part, Step, full_name, trace};
use serde_json::{Value, json};

/// A stack of more than this many is cut short.
const SHOWN: usize = 2;

/// The section of a report: text, in which blocks alike are one, and JSON with every parameter.
pub fn section(pipeline: &Pipeline) -> (String, Value) {
    let mut groups: Vec<(Vec<PlaceKind>, String)> = Vec::new();
    let mut details = Vec::new();
    let mut rest = pipeline.origins();
    while let Some((place, _)) = rest.first() {
        let own = rest.iter().take_while(|(at, _)| at == place).count();
        let (here, after) = rest.split_at(own);
        rest = after;
        let mut text = String::new();
        for (_, parameter) in here {
            text += &described(pipeline, *place, parameter);
            details.push(json!({
                "name": full_name(*place, &parameter.name),
                "axes": axes(&parameter.origin),
                "place": place.to_string(),
                "made_of": made_of(pipeline, &parameter.origin),
            }));
        }
        match groups.iter_mut().find(|(places, known)| *known == text && is_block(places[0])) {
            Some((places, _)) => places.push(*place),
            None => groups.push((vec![*place], text)),
        }
    }
    let text = groups.iter().map(|(places, text)| format!("{}\n{text}", heading(places)));
    (text.collect(), Value::Array(details))
}

fn is_block(place: PlaceKind) -> bool {
    matches!(place, PlaceKind::Block(_))
}

/// `embed`, `block 3`, `blocks 0 to 2, 4`.
fn heading(places: &[PlaceKind]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for place in places {
        let PlaceKind::Block(i) = place else { continue };
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *i => *last = *i,
            _ => ranges.push((*i, *i)),
        }
    }
    let shown = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    match places {
        [one] => one.to_string(),
        _ => format!("blocks {}", ranges.iter().map(shown).collect::<Vec<_>>().join(", ")),
    }
}

/// A parameter's lines. In those of a block its number is `N`, so that blocks can be compared.
fn described(pipeline: &Pipeline, place: PlaceKind, parameter: &Parameter) -> String {
    let heading = format!("{} {}", escape(&parameter.name), axes(&parameter.origin));
    let mut text = format!("  {}\n", heading.trim_end());
    let mut line = |sign: &str, words: String| text += &format!("      {sign:>2} {words}\n");
    let part = |part: &Part| part_text(pipeline, part, Some(place));
    match &parameter.origin {
        Origin::Tied(to) => line("=", format!("the same bytes as {}", escape(to))),
        Origin::Tensor(one) => line("=", part(one)),
        Origin::Concat(joint) => {
            for (i, one) in joint.parts.iter().enumerate() {
                line(if i == 0 { "=" } else { "++" }, part(one));
            }
            if joint.axis > 0 {
                line("", format!("side by side along axis {}", joint.axis));
            }
        }
        Origin::Stack(pile) => {
            line("=", format!("{} on a new axis, of {}:", pile.parts.len(), pile.meaning));
            for joint in pile.parts.iter().take(SHOWN) {
                for (i, one) in joint.parts.iter().enumerate() {
                    line(if i == 0 { "|" } else { "++" }, part(one));
                }
            }
            if pile.parts.len() > SHOWN {
                line("|", format!("… and {} more", pile.parts.len() - SHOWN));
            }
        }
    }
    text
}

/// `tensor [64, 192], permute [1, 0] → [192, 64]`; several steps on a line of their own.
fn part_text(pipeline: &Pipeline, part: &Part, place: Option<PlaceKind>) -> String {
    let shapes = shapes(pipeline, part);
    let mut name = escape(&part.tensor);
    if let Some(PlaceKind::Block(i)) = place {
        name = numbered(&name, i);
    }
    let mut text = match shapes.first() {
        Some(shape) => format!("{name} {shape:?}"),
        None => name,
    };
    let steps = part.steps.iter().zip(shapes.iter().skip(1)).map(|(step, shape)| match step {
        // Its shape is what it is.
        Step::Reshape(_) => format!("reshape → {shape:?}"),
        step => format!("{} → {shape:?}", escape(&step.to_string())),
    });
    let steps: Vec<String> = steps.collect();
    match steps.len() {
        0 => {}
        1 => text += &format!(", {}", steps[0]),
        _ => text += &format!(",\n           {}", steps.join(", ")),
    }
    text
}

fn shapes(pipeline: &Pipeline, part: &Part) -> Vec<Vec<u64>> {
    trace(part, &|name| pipeline.source().tensors().get(name).map(|info| info.shape.clone()))
}

/// A name with the first number in it that is a block's own as `N`.
fn numbered(name: &str, block: u32) -> String {
    let number = block.to_string();
    let digit = |at: Option<char>| at.is_some_and(|c| c.is_ascii_digit());
    let whole = name.match_indices(&number).find(|(at, _)| {
        let after = name[at + number.len()..].chars().next();
        !digit(name[..*at].chars().next_back()) && !digit(after)
    });
    match whole {
        Some((at, _)) => format!("{}N{}", &name[..at], &name[at + number.len()..]),
        None => name.to_owned(),
    }
}

fn axes(origin: &Origin) -> String {
    match origin.axes() {
        Ok(Some(axes)) => display_axes(&axes),
        _ => String::new(),
    }
}

fn made_of(pipeline: &Pipeline, origin: &Origin) -> Value {
    let parts = |parts: &[Part]| -> Vec<Value> {
        let one = |part: &Part| {
            json!({
                "tensor": part.tensor,
                "steps": part.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "shapes": shapes(pipeline, part),
            })
        };
        parts.iter().map(one).collect()
    };
    match origin {
        Origin::Tied(to) => json!({ "tied": to }),
        Origin::Tensor(part) => json!({ "tensor": parts(std::slice::from_ref(part))[0] }),
        Origin::Concat(joint) => json!({ "concat": parts(&joint.parts), "axis": joint.axis }),
        Origin::Stack(pile) => {
            let joint = |joint: &engraft_weights::Joint| json!({ "concat": parts(&joint.parts), "axis": joint.axis });
            json!({ "stack": pile.parts.iter().map(joint).collect::<Vec<_>>() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocks_own_number_is_told_from_others() {
        assert_eq!(numbered("model.layers.1.mlp.experts.1.w", 1), "model.layers.N.mlp.experts.1.w");
        assert_eq!(numbered("h.11.ln_1.weight", 1), "h.11.ln_N.weight");
        assert_eq!(numbered("h.11.ln_1.weight", 11), "h.N.ln_1.weight");
        assert_eq!(numbered("wte.weight", 0), "wte.weight");
    }

    #[test]
    fn blocks_are_counted_in_ranges() {
        let blocks = |all: &[u32]| all.iter().map(|&i| PlaceKind::Block(i)).collect::<Vec<_>>();
        assert_eq!(heading(&blocks(&[0, 1, 2, 4])), "blocks 0 to 2, 4");
        assert_eq!(heading(&blocks(&[3])), "block 3");
        assert_eq!(heading(&[PlaceKind::Embed]), "embed");
    }
}
