//! What states and options say: attributes as `name=value`, in one order.

use super::{ParseError, activation, weight};
use crate::attention::AttentionData;
use crate::cursor::Cursor;
use crate::mixture::{Bounded, Groups, MixtureData};
use crate::rotary::Scaling;
use crate::state::StateData;

/// `cache key_heads=3 head_width=64`, `convolution channels=64 taps=4` and the like.
pub(super) fn state(line: &mut Cursor<'_>) -> Result<StateData, ParseError> {
    let word = line.word();
    Ok(match word {
        "cache" => StateData::Cache {
            key_heads: line.integer_attribute("key_heads")?,
            head_width: line.integer_attribute("head_width")?,
            keys_only: line.maybe_keyword("keys_only"),
        },
        "convolution" => {
            let channels = channels(line)?;
            line.attribute("taps")?;
            StateData::Convolution { channels, taps: line.integer("a length")? }
        }
        "recurrence" => StateData::Recurrence { channels: channels(line)? },
        _ => {
            line.back(word);
            return line.expected("`cache`, `convolution` or `recurrence`");
        }
    })
}

fn channels(line: &mut Cursor<'_>) -> Result<u64, ParseError> {
    line.attribute("channels")?;
    line.integer("a length")
}

/// `query_heads=9 scale=0.125 window=4096 softcap=50.0 alibi=[0.5, 0.25] sinks=w3 latent=64`; all
/// but the first two may be missing.
pub(super) fn attention(
    line: &mut Cursor<'_>,
    key_heads: u32,
    head_width: u32,
) -> Result<AttentionData, ParseError> {
    let query_heads = line.integer_attribute("query_heads")?;
    let scale = line.number_attribute("scale")?;
    let mut options = AttentionData::new(query_heads, key_heads, head_width, scale);
    if line.peek() == b'w' {
        options.window = Some(line.integer_attribute("window")?);
    }
    if line.peek() == b's' && !line.sees("sinks") {
        options.softcap = Some(line.number_attribute("softcap")?);
    }
    if line.peek() == b'a' {
        line.attribute("alibi")?;
        options.alibi = Some(line.list(Cursor::number)?);
    }
    if line.peek() == b's' {
        line.attribute("sinks")?;
        options.sinks = Some(weight(line)?);
    }
    if line.peek() == b'l' {
        options.latent = Some(line.integer_attribute("latent")?);
    }
    Ok(options)
}

/// `chosen=2 activation=silu sigmoid renormalize scale=2.5 prefer=w5 groups=8 chosen_groups=4
/// best=2 up_bias=w6 down_bias=w7 bound=7.0 slope=1.702 first=4`; all but the first two may be missing.
pub(super) fn mixture(line: &mut Cursor<'_>) -> Result<MixtureData, ParseError> {
    let chosen = line.integer_attribute("chosen")?;
    line.attribute("activation")?;
    let mut options = MixtureData::new(chosen, activation(line)?);
    options.sigmoid = line.maybe_keyword("sigmoid");
    options.renormalize = line.maybe_keyword("renormalize");
    if line.peek() == b's' {
        options.scale = Some(line.number_attribute("scale")?);
    }
    if line.peek() == b'p' {
        line.attribute("prefer")?;
        options.prefer = Some(weight(line)?);
    }
    if line.peek() == b'g' {
        options.groups = Some(Groups {
            groups: line.integer_attribute("groups")?,
            chosen: line.integer_attribute("chosen_groups")?,
            best: line.integer_attribute("best")?,
        });
    }
    if line.peek() == b'u' {
        line.attribute("up_bias")?;
        let up = weight(line)?;
        line.attribute("down_bias")?;
        options.biases = Some([up, weight(line)?]);
    }
    if line.peek() == b'b' {
        let bound = line.number_attribute("bound")?;
        options.bounded = Some(Bounded { bound, slope: line.number_attribute("slope")? });
    }
    if line.peek() == b'f' {
        options.first = Some(line.integer_attribute("first")?);
    }
    Ok(options)
}

/// `scaling=llama3 factor=8.0 low=1.0 high=4.0 context=8192`, or nothing.
pub(super) fn scaling(line: &mut Cursor<'_>) -> Result<Scaling, ParseError> {
    if matches!(line.peek(), 0 | b'i') {
        return Ok(Scaling::None);
    }
    line.attribute("scaling")?;
    let name = line.word();
    match name {
        "linear" => Ok(Scaling::Linear { factor: line.number_attribute("factor")? }),
        "llama3" => Ok(Scaling::Llama3 {
            factor: line.number_attribute("factor")?,
            low: line.number_attribute("low")?,
            high: line.number_attribute("high")?,
            context: line.integer_attribute("context")?,
        }),
        "yarn" => Ok(Scaling::Yarn {
            factor: line.number_attribute("factor")?,
            fast: line.number_attribute("fast")?,
            slow: line.number_attribute("slow")?,
            attention: match line.peek() {
                b'a' => Some(line.number_attribute("attention")?),
                _ => None,
            },
            context: line.integer_attribute("context")?,
            untruncated: line.maybe_keyword("untruncated"),
        }),
        "long" => Ok(Scaling::Long {
            short: factors(line, "short")?,
            long: factors(line, "long")?,
            attention: line.number_attribute("attention")?,
            context: line.integer_attribute("context")?,
        }),
        _ => {
            line.back(name);
            line.expected("`linear`, `llama3`, `yarn` or `long`")
        }
    }
}

fn factors(line: &mut Cursor<'_>, name: &str) -> Result<Vec<f64>, ParseError> {
    line.attribute(name)?;
    line.list(Cursor::number)
}
