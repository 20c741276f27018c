//! Messages to a prompt, by the model's own Jinja template.
//!
//! The environment is that of HuggingFace's `apply_chat_template`: blocks are trimmed, Python's
//! methods of strings, lists and dictionaries work, `raise_exception`, `tojson` and the special
//! tokens are there. There is no clock: a template that asks for the date if it can takes its own
//! constant, and one that insists is an error. Templates cannot read files, and come from whoever
//! made the model: they run on fuel, and as [`guard`] bounds them.

mod guard;

use crate::error::RuntimeError;
use crate::tokenizer::{CONFIG, json_beside, special_token, text_beside};
use engraft_engine::Engine;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const TEMPLATE: &str = "chat_template.jinja";

/// Instructions that a template may run: some hundred times what a long chat needs. It bounds
/// also how deeply values are nested, and so the stack.
const FUEL: u64 = 1_000_000;

/// Bytes of a template: several times those of the longest known. It bounds the depth of its
/// expressions, and so the stack.
const SOURCE_LIMIT: usize = 128 << 10;

/// Bytes of a prompt: far more than any context holds.
const PROMPT_LIMIT: usize = 64 << 20;

/// What else HuggingFace calls special; each is in scope where the model names it.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What one side said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who: `system`, `user` or `assistant`, as far as the template knows them.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message of the user's.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
    }

    /// A message that sets the tone.
    pub fn system(content: impl Into<String>) -> Message {
        Message { role: "system".into(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// The template beside an engine: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (a text, or a list of named ones with a `default`).
    ///
    /// # Errors
    /// Where there is none, or it does not parse.
    pub fn of(engine: &Engine) -> Result<ChatTemplate, RuntimeError> {
        let config = json_beside(engine, CONFIG)?.unwrap_or_default();
        let source = match text_beside(engine, TEMPLATE)? {
            Some(bytes) => Some(String::from_utf8(bytes).map_err(|e| RuntimeError::Malformed {
                file: TEMPLATE.into(),
                reason: e.to_string(),
            })?),
            None => template_of(&config),
        };
        let none = || RuntimeError::NoChatTemplate { directory: engine.directory().into() };
        ChatTemplate::new(&source.ok_or_else(none)?, &config)
    }

    /// From a template and `tokenizer_config.json`, which names the special tokens.
    ///
    /// # Errors
    /// Where the template is far too long or does not parse.
    pub fn new(source: &str, config: &serde_json::Value) -> Result<ChatTemplate, RuntimeError> {
        let malformed = |reason| RuntimeError::Malformed { file: TEMPLATE.into(), reason };
        if source.len() > SOURCE_LIMIT {
            return Err(malformed(format!("it is longer than {SOURCE_LIMIT} bytes")));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::None => Ok(out.write_str("None")?),
            ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        // They take memory by a number, and no chat needs them.
        environment.remove_filter("batch");
        environment.remove_filter("slice");
        let source = without_generation_marks(source);
        let environment = guard::run(move || {
            environment.add_template_owned(TEMPLATE, source).map_err(|e| malformed(words(&e)))?;
            Ok(Arc::new(environment))
        })?;
        let special_tokens = SPECIAL_TOKENS
            .iter()
            .filter_map(|key| Some((*key, special_token(config, key)?.to_string())))
            .collect();
        Ok(ChatTemplate { environment, special_tokens })
    }

    /// The prompt for some messages; with `add_generation_prompt`, up to where the model's
    /// answer begins. Encode it without adding special tokens: it has them.
    ///
    /// # Errors
    /// Where the template refuses the messages, does not run, or takes too much of anything. In
    /// the last case what it does may go on in the background: end the process, or bear it.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, RuntimeError> {
        let scope = context! {
            messages => messages,
            tools => (),
            documents => (),
            add_generation_prompt => add_generation_prompt,
            ..Value::from_serialize(&self.special_tokens)
        };
        let environment = self.environment.clone();
        guard::run(move || {
            let failed = |e: Error| RuntimeError::ChatTemplate { reason: words(&e) };
            let mut prompt = Prompt::default();
            let template = environment.get_template(TEMPLATE).map_err(failed)?;
            let done = template.render_captured_to(scope, &mut prompt).map(drop);
            if prompt.full {
                let reason = format!("it makes more than {PROMPT_LIMIT} bytes");
                return Err(RuntimeError::ChatTemplate { reason });
            }
            done.map_err(failed)?;
            String::from_utf8(prompt.bytes)
                .map_err(|e| RuntimeError::ChatTemplate { reason: e.to_string() })
        })
    }
}

/// Takes what a template prints, up to the limit.
#[derive(Default)]
struct Prompt {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full = bytes.len() > PROMPT_LIMIT - self.bytes.len();
        if self.full {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error of the template engine in one line.
fn words(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => detail.to_string(),
        None => error.kind().to_string(),
    };
    let what = engraft_diagnostic::escape(&what);
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

fn template_of(config: &serde_json::Value) -> Option<String> {
    let template = config.get("chat_template")?;
    if let Some(named) = template.as_array() {
        let default =
            named.iter().find(|t| t.get("name").and_then(|n| n.as_str()) == Some("default"));
        return Some(default?.get("template")?.as_str()?.to_string());
    }
    Some(template.as_str()?.to_string())
}

/// `{% generation %} … {% endgeneration %}` marks what a model is trained on; it prints what is
/// in it. A block that is always taken does the same.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let Some(length) = rest[begin..].find("%}") else { break };
        let (before, tag) = (&rest[..begin], &rest[begin + 2..begin + length]);
        out.push_str(before);
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replaced = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_string(),
        };
        out.push_str("{%");
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &rest[begin + length + 2..];
    }
    out + rest
}

/// Python's `json.dumps(value, ensure_ascii=False)`, with its `indent`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Escapes of what is not ASCII, and the order of keys, are as without these.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let done = match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    done.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// A space after commas and colons.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, config: serde_json::Value) -> Result<String, RuntimeError> {
        let messages = [Message::system(" be brief "), Message::user("a <b> é {{ x }}")];
        ChatTemplate::new(source, &config)?.render(&messages, true)
    }

    #[test]
    fn blocks_are_trimmed_and_text_is_not_escaped() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if true %}\n\
                      [{{ m['role'] }}] {{ m.content.strip() }}\n  {% endif %}\n{% endfor %}\n\
                      {% if add_generation_prompt %}[assistant] {% endif %}";
        let text = render(source, json!({"bos_token": {"content": "<s>"}})).expect("renders");
        assert_eq!(text, "<s>[system] be brief\n[user] a <b> é {{ x }}\n[assistant] ");
    }

    #[test]
    fn a_template_can_refuse() {
        let error =
            render("{{ raise_exception('no system role') }}", json!({})).expect_err("refuses");
        assert!(error.to_string().contains("no system role"), "{error}");
    }

    #[test]
    fn there_is_no_clock() {
        let source =
            "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}then{% endif %}";
        assert_eq!(render(source, json!({})).expect("renders"), "then");
        let error = render("{{ strftime_now('%Y') }}", json!({})).expect_err("no clock");
        assert!(error.to_string().contains("strftime_now"), "{error}");
    }

    #[test]
    fn json_is_spelled_as_python_spells_it() {
        let source = "{{ {'a': [1, none, true], 'b': '<é>'} | tojson }} {{ none }} {{ true }}";
        let text = render(source, json!({})).expect("renders");
        assert_eq!(text, "{\"a\": [1, null, true], \"b\": \"<é>\"} None True");
        let text = render("{{ {'a': [1]} | tojson(indent=2) }}", json!({})).expect("renders");
        assert_eq!(text, "{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn generation_marks_print_what_is_in_them() {
        let source = "a {%- generation -%} b {%- endgeneration %} c{% set generation = 1 %}";
        assert_eq!(render(source, json!({})).expect("renders"), "ab c");
    }

    #[test]
    fn the_default_of_named_templates_is_taken() {
        let config = json!({"chat_template": [{"name": "tools", "template": "t"},
            {"name": "default", "template": "d"}]});
        assert_eq!(template_of(&config).as_deref(), Some("d"));
        assert_eq!(template_of(&json!({"chat_template": "x"})).as_deref(), Some("x"));
        assert_eq!(template_of(&json!({})), None);
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                      {% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(render(source, json!({})), Err(RuntimeError::ChatTemplate { .. })));
    }

    #[test]
    fn a_template_that_takes_too_much_is_stopped() {
        let explode = "{% for i in range(9999) %}{{ 'a' * 100000 }}{% endfor %}";
        let double = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}\
                      {% set n.x = n.x + n.x %}{% endfor %}";
        for (source, word) in
            [(explode, "bytes"), (double, "memory"), ("{{ [1]|batch(9) }}", "batch")]
        {
            let error = render(source, json!({})).expect_err("too much").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_template_as_deep_as_it_may_be_does_not_end_the_process() {
        let signs = format!("{{{{ {}1 }}}}", "-".repeat(SOURCE_LIMIT - 10));
        let sum = format!("{{{{ {}1 }}}}", "1+".repeat(SOURCE_LIMIT / 2 - 10));
        let filters = format!("{{{{ 1{} }}}}", "|int".repeat(SOURCE_LIMIT / 4 - 10));
        for deep in [signs, sum, filters] {
            // Whether it is right or wrong is the template engine's to say.
            drop(render(&deep, json!({})));
        }
        let nested = "{% set n = namespace(x=[]) %}{% for i in range(99999) %}\
                      {% set n.x = [n.x] %}{% endfor %}{{ n.x }}";
        drop(render(nested, json!({})));
        let long = " ".repeat(SOURCE_LIMIT + 1);
        assert!(matches!(render(&long, json!({})), Err(RuntimeError::Malformed { .. })));
    }

    #[test]
    fn what_a_template_says_does_not_speak_to_the_terminal() {
        let error = render("{{ raise_exception('\x1b[31m') }}", json!({})).expect_err("refuses");
        assert!(!error.to_string().contains('\x1b'), "{error}");
    }

    #[test]
    fn a_template_that_does_not_parse_is_malformed() {
        assert!(matches!(render("{% if %}", json!({})), Err(RuntimeError::Malformed { .. })));
    }
}
