// GPT-2 in C: what `plugins/gpt2` says in Rust, for models whose tensors have their usual prefix.
//
// plugin.h, plugin.c and plugin_component_type.o are bindings that wit-bindgen made of the WIT
// package. What is returned to the host is freed by them, so it is all on the heap.

#include "plugin.h"
#include <stdlib.h>
#include <string.h>

// Short names for the bindings' long ones.
typedef plugin_string_t string;
typedef engraft_plugin_config_field_t field_t;
typedef engraft_plugin_config_setting_t setting_t;
typedef engraft_plugin_config_value_t setting_value_t;
typedef engraft_plugin_types_axis_t axis_t;
typedef engraft_plugin_types_refusal_t refusal_t;
typedef engraft_plugin_weights_part_t part_t;
typedef engraft_plugin_weights_parameter_t parameter_t;
typedef engraft_plugin_graph_value_t value_t;
typedef engraft_plugin_graph_weight_t weight_t;
typedef engraft_plugin_graph_borrow_builder_t builder_t;
typedef exports_engraft_plugin_architecture_list_field_t fields_t;
typedef exports_engraft_plugin_architecture_list_setting_t settings_t;
typedef exports_engraft_plugin_architecture_list_parameter_t parameters_t;
typedef exports_engraft_plugin_architecture_place_t place_t;
#define KIND(name) ENGRAFT_PLUGIN_CONFIG_KIND_##name
#define VALUE(name) ENGRAFT_PLUGIN_CONFIG_VALUE_##name
#define MEANING(name) ENGRAFT_PLUGIN_TYPES_MEANING_##name
#define STEP(name) ENGRAFT_PLUGIN_WEIGHTS_STEP_##name
#define ORIGIN(name) ENGRAFT_PLUGIN_WEIGHTS_ORIGIN_##name
#define PLACE(name) EXPORTS_ENGRAFT_PLUGIN_ARCHITECTURE_PLACE_##name
#define CALL(name) engraft_plugin_graph_method_builder_##name

// A bug ends the call with a message; the host shows it with the place.
static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) {
    string reason;
    plugin_string_set(&reason, "out of memory");
    engraft_plugin_report_fail(&reason);
  }
  return memory;
}

static string text(const char *words) {
  string result;
  plugin_string_dup(&result, words);
  return result;
}

// Three words in a row, as "transformer.h." "7" ".ln_1.weight".
static string joined(const char *first, const char *second, const char *third) {
  size_t sizes[] = {strlen(first), strlen(second), strlen(third)};
  size_t size = sizes[0] + sizes[1] + sizes[2];
  string result = {allocate(size + 1, 1), size}; // and a zero, for C
  memcpy(result.ptr, first, sizes[0]);
  memcpy(result.ptr + sizes[0], second, sizes[1]);
  memcpy(result.ptr + sizes[0] + sizes[1], third, sizes[2]);
  return result;
}

static bool equal(string left, const char *right) {
  return left.len == strlen(right) && memcmp(left.ptr, right, left.len) == 0;
}

static bool refuse(refusal_t *refusal, const char *subject, const char *reason) {
  refusal->subject = text(subject);
  refusal->reason = text(reason);
  return false;
}

// --- Fields -------------------------------------------------------------------------------------

// What a field is where the config lacks it.
enum { REQUIRED, ABSENT, NUMBER, TEXT, FLAG };

typedef struct {
  const char *key;        // in config.json
  const char *checkpoint; // in a checkpoint; null where only a source has it
  uint8_t kind;
  int fallback;
  double number; // the value of the fallback
  const char *words;
  const char *doc;
} known_t;

static const known_t KNOWN[] = {
    {"n_layer", "num_hidden_layers", KIND(INTEGER), REQUIRED, 0, 0, "Blocks."},
    {"n_embd", "hidden_size", KIND(INTEGER), REQUIRED, 0, 0, "Width between blocks."},
    {"n_inner", "intermediate_size", KIND(INTEGER), ABSENT, 0, 0, "Inner width."},
    {"n_head", "num_attention_heads", KIND(INTEGER), REQUIRED, 0, 0, "Heads."},
    {"vocab_size", "vocab_size", KIND(INTEGER), REQUIRED, 0, 0, "Entries of the vocabulary."},
    {"n_positions", "max_position_embeddings", KIND(INTEGER), REQUIRED, 0, 0, "Context."},
    {"layer_norm_epsilon", "norm_epsilon", KIND(NUMBER), NUMBER, 1e-5, 0, "Of norms."},
    {"activation_function", "hidden_act", KIND(TEXT), TEXT, 0, "gelu_new", "Activation."},
    {"tie_word_embeddings", "tie_word_embeddings", KIND(FLAG), FLAG, 1, 0, "Of the head."},
    {"scale_attn_weights", 0, KIND(FLAG), FLAG, 1, 0, "Supported: true."},
    {"scale_attn_by_inverse_layer_idx", 0, KIND(FLAG), FLAG, 0, 0, "Supported: false."},
    {"reorder_and_upcast_attn", 0, KIND(FLAG), ABSENT, 0, 0, "How training computed scores."},
};
enum { LAYERS, HIDDEN, INNER, HEADS, VOCABULARY, CONTEXT, EPSILON, ACTIVATION, TIED, SETTINGS };
enum { ALL = sizeof KNOWN / sizeof *KNOWN };

static field_t declared(const char *path, const known_t *known) {
  field_t field = {.path = text(path), .kind = known->kind, .doc = text(known->doc)};
  setting_value_t *value = &field.fallback.val.value;
  field.fallback.tag = ENGRAFT_PLUGIN_CONFIG_FALLBACK_VALUE;
  switch (known->fallback) {
  case REQUIRED:
    field.fallback.tag = ENGRAFT_PLUGIN_CONFIG_FALLBACK_REQUIRED;
    break;
  case ABSENT:
    field.fallback.tag = ENGRAFT_PLUGIN_CONFIG_FALLBACK_ABSENT;
    break;
  case NUMBER:
    value->tag = VALUE(NUMBER);
    value->val.number = known->number;
    break;
  case TEXT:
    value->tag = VALUE(TEXT);
    value->val.text = text(known->words);
    break;
  case FLAG:
    value->tag = VALUE(FLAG);
    value->val.flag = known->number != 0;
    break;
  }
  return field;
}

static const setting_value_t *find(const settings_t *settings, const char *path) {
  for (size_t i = 0; i < settings->len; i++) {
    const setting_t *setting = &settings->ptr[i];
    if (equal(setting->path, path)) {
      return setting->value.is_some ? &setting->value.val : 0;
    }
  }
  return 0;
}

static setting_t set(const char *path, uint8_t tag) {
  return (setting_t){.path = text(path), .value = {.is_some = true, .val = {.tag = tag}}};
}

static setting_t set_integer(const char *path, int64_t integer) {
  setting_t setting = set(path, VALUE(INTEGER));
  setting.value.val.val.integer = integer;
  return setting;
}

static setting_t set_text(const char *path, string words) {
  setting_t setting = set(path, VALUE(TEXT));
  setting.value.val.val.text = words;
  return setting;
}

void exports_engraft_plugin_architecture_identify(
    exports_engraft_plugin_architecture_identity_t *identity) {
  identity->name = text("gpt2-c");
  identity->version = text("0.1.0");
  identity->doc = text("GPT-2, written in C.");
  identity->accepts = (plugin_list_string_t){allocate(1, sizeof(string)), 1};
  identity->accepts.ptr[0] = text("GPT2LMHeadModel");
  identity->dialects = (plugin_list_string_t){allocate(1, sizeof(string)), 1};
  identity->dialects.ptr[0] = text("hugging-face");
}

void exports_engraft_plugin_architecture_source_fields(string *dialect, fields_t *fields) {
  plugin_string_free(dialect);
  *fields = (fields_t){allocate(ALL, sizeof(field_t)), ALL};
  for (size_t i = 0; i < ALL; i++) {
    fields->ptr[i] = declared(KNOWN[i].key, &KNOWN[i]);
  }
}

// All but one are base fields of the host's.
void exports_engraft_plugin_architecture_fields(fields_t *fields) {
  *fields = (fields_t){allocate(1, sizeof(field_t)), 1};
  fields->ptr[0] = declared(KNOWN[TIED].checkpoint, &KNOWN[TIED]);
}

// Copies a value that the host handed over.
static setting_value_t copied(const setting_value_t *value) {
  setting_value_t copy = *value;
  if (value->tag == VALUE(TEXT)) {
    plugin_string_dup_n(&copy.val.text, (const char *)value->val.text.ptr, value->val.text.len);
  }
  return copy;
}

bool exports_engraft_plugin_architecture_configure(string *dialect, settings_t *source,
                                                   settings_t *settings, refusal_t *refusal) {
  plugin_string_free(dialect);
  for (size_t i = SETTINGS; i < ALL; i++) {
    const setting_value_t *value = find(source, KNOWN[i].key);
    if (KNOWN[i].fallback == FLAG && value && value->val.flag != (KNOWN[i].number != 0)) {
      return refuse(refusal, KNOWN[i].key, "is not supported");
    }
  }
  int64_t hidden = find(source, "n_embd")->val.integer;
  int64_t heads = find(source, "n_head")->val.integer;
  if (hidden < 1 || hidden > UINT32_MAX / 4 || heads < 1 || hidden % heads != 0) {
    return refuse(refusal, "n_head", "must divide n_embd");
  }
  settings->ptr = allocate(SETTINGS + 6, sizeof(setting_t));
  settings->len = SETTINGS + 6;
  for (size_t i = 0; i < SETTINGS; i++) {
    const setting_value_t *value = find(source, KNOWN[i].key);
    settings->ptr[i] = set_integer(KNOWN[i].checkpoint, 4 * hidden);
    if (value) {
      settings->ptr[i].value.val = copied(value);
    }
  }
  setting_t *more = settings->ptr + SETTINGS;
  more[0] = set_text("architecture", text("GPT2LMHeadModel"));
  more[1] = set_text("position_embedding_type", text("learned_absolute"));
  more[2] = set_integer("num_key_value_heads", heads);
  more[3] = set_integer("head_size", hidden / heads);
  more[4] = set_integer("rotary_embedding_dim", hidden / heads);
  more[5] = set("qk_layernorm", VALUE(FLAG));
  exports_engraft_plugin_architecture_list_setting_free(source);
  return true;
}

// --- The model ----------------------------------------------------------------------------------

struct exports_engraft_plugin_architecture_model_t {
  uint32_t sizes[EPSILON]; // by their places in KNOWN
  double epsilon;
  string activation;
  bool tied;
};
typedef exports_engraft_plugin_architecture_model_t model_t;

bool exports_engraft_plugin_architecture_static_model_open(
    settings_t *settings, exports_engraft_plugin_architecture_own_model_t *opened,
    refusal_t *refusal) {
  model_t *model = allocate(1, sizeof(model_t));
  for (size_t i = 0; i < SETTINGS; i++) {
    const char *name = KNOWN[i].checkpoint;
    const setting_value_t *value = find(settings, name);
    if (!value) {
      return refuse(refusal, name, "is missing");
    }
    if (i < EPSILON) {
      if (value->val.integer < 1 || value->val.integer > UINT32_MAX) {
        return refuse(refusal, name, "is not a size");
      }
      model->sizes[i] = (uint32_t)value->val.integer;
    }
  }
  model->epsilon = find(settings, KNOWN[EPSILON].checkpoint)->val.number;
  model->activation = copied(find(settings, KNOWN[ACTIVATION].checkpoint)).val.text;
  model->tied = find(settings, KNOWN[TIED].checkpoint)->val.flag;
  if (model->sizes[HIDDEN] % model->sizes[HEADS] != 0) {
    return refuse(refusal, "num_attention_heads", "must divide hidden_size");
  }
  if (!(model->epsilon > 0)) {
    return refuse(refusal, "norm_epsilon", "must be above zero");
  }
  exports_engraft_plugin_architecture_list_setting_free(settings);
  *opened = exports_engraft_plugin_architecture_model_new(model);
  return true;
}

void exports_engraft_plugin_architecture_model_destructor(model_t *model) {
  plugin_string_free(&model->activation);
  free(model);
}

void exports_engraft_plugin_architecture_method_model_outline(
    model_t *model, exports_engraft_plugin_architecture_outline_t *outline) {
  outline->blocks = model->sizes[LAYERS];
  outline->vocabulary = model->sizes[VOCABULARY];
  outline->context = model->sizes[CONTEXT];
}

// --- Parameters ---------------------------------------------------------------------------------

// Collects a place's parameters. `prefix` and `layer` begin the names of its tensors.
typedef struct {
  parameters_t list;
  const char *prefix;
  char layer[12];
} collector_t;

static axis_t axis(uint64_t size, uint8_t meaning) { return (axis_t){size, meaning}; }

static part_t part(collector_t *all, const char *tensor, const axis_t *axes, size_t rank) {
  part_t part = {.tensor = joined(all->prefix, all->layer, tensor)};
  part.axes.ptr = allocate(rank, sizeof(axis_t));
  part.axes.len = rank;
  memcpy(part.axes.ptr, axes, rank * sizeof(axis_t));
  part.steps.ptr = allocate(2, sizeof(engraft_plugin_weights_step_t));
  return part;
}

static void transpose(part_t *part) {
  engraft_plugin_weights_step_t *step = &part->steps.ptr[part->steps.len++];
  step->tag = STEP(PERMUTE);
  step->val.permute = (plugin_list_u32_t){allocate(2, sizeof(uint32_t)), 2};
  step->val.permute.ptr[0] = 1;
}

static parameter_t *add(collector_t *all, const char *name, const char *suffix, uint8_t precision) {
  parameter_t *parameter = &all->list.ptr[all->list.len++];
  parameter->name = joined(name, suffix, "");
  parameter->precision = precision;
  return parameter;
}

// A norm's weight and bias; or a table's or a linear layer's weight. GPT-2 stores linear layers as
// [in, out] and a checkpoint has them as [out, in].
static void one(collector_t *all, const char *name, const char *suffix, const char *tensor,
                const axis_t *axes, size_t rank, bool stored_transposed) {
  uint8_t precision = rank == 1 ? ENGRAFT_PLUGIN_WEIGHTS_PRECISION_KEEP
                                : ENGRAFT_PLUGIN_WEIGHTS_PRECISION_ANY;
  parameter_t *parameter = add(all, name, suffix, precision);
  string whole = joined(tensor, suffix, "");
  parameter->origin.tag = ORIGIN(TENSOR);
  parameter->origin.val.tensor = part(all, (const char *)whole.ptr, axes, rank);
  plugin_string_free(&whole);
  if (stored_transposed) {
    transpose(&parameter->origin.val.tensor);
  }
}

// A layer with weight `[out, in]` and bias.
static void linear(collector_t *all, const char *name, const char *tensor, axis_t out, axis_t in) {
  one(all, name, ".weight", tensor, (axis_t[]){out, in}, 2, true);
  one(all, name, ".bias", tensor, &out, 1, false);
}

static void norm(collector_t *all, const char *name, const char *tensor, axis_t width) {
  one(all, name, ".weight", tensor, &width, 1, false);
  one(all, name, ".bias", tensor, &width, 1, false);
}

// Queries, keys and values, side by side in one tensor. Each is cut out with a meaning of its own.
static void fused(collector_t *all, const char *suffix, axis_t width) {
  size_t rank = strcmp(suffix, ".weight") == 0 ? 2 : 1;
  parameter_t *parameter =
      add(all, "attention.qkv", suffix, ENGRAFT_PLUGIN_WEIGHTS_PRECISION_ANY);
  parameter->origin.tag = ORIGIN(CONCAT);
  engraft_plugin_weights_joint_t *joint = &parameter->origin.val.concat;
  joint->axis = 0;
  joint->parts.ptr = allocate(3, sizeof(part_t));
  joint->parts.len = 3;
  string tensor = joined(".attn.c_attn", suffix, "");
  for (uint64_t i = 0; i < 3; i++) {
    axis_t rows = axis(width.size, i == 0 ? MEANING(QUERY_HEADS) : MEANING(KEY_HEADS));
    part_t *cut = &joint->parts.ptr[i];
    *cut = part(all, (const char *)tensor.ptr, (axis_t[]){rows, width}, rank);
    if (rank == 2) {
      transpose(cut);
    }
    engraft_plugin_weights_step_t *slice = &cut->steps.ptr[cut->steps.len++];
    slice->tag = STEP(SLICE);
    slice->val.slice =
        (engraft_plugin_weights_range_t){0, i * width.size, (i + 1) * width.size};
  }
  plugin_string_free(&tensor);
}

// A number in decimal.
static void decimal(char *out, uint32_t number) {
  size_t digits = 1;
  for (uint32_t rest = number; rest >= 10; rest /= 10) {
    digits++;
  }
  out[digits] = 0;
  while (digits-- > 0) {
    out[digits] = (char)('0' + number % 10);
    number /= 10;
  }
}

void exports_engraft_plugin_architecture_method_model_parameters(model_t *model, place_t *at,
                                                                 string *dialect,
                                                                 parameters_t *parameters) {
  plugin_string_free(dialect);
  axis_t width = axis(model->sizes[HIDDEN], MEANING(PLAIN));
  axis_t inner = axis(model->sizes[INNER], MEANING(FEED_FORWARD));
  axis_t queries = axis(model->sizes[HIDDEN], MEANING(QUERY_HEADS));
  axis_t table[] = {axis(model->sizes[VOCABULARY], MEANING(VOCABULARY)), width};
  axis_t positions[] = {axis(model->sizes[CONTEXT], MEANING(PLAIN)), width};
  collector_t all = {.prefix = "transformer."};
  all.list.ptr = allocate(12, sizeof(parameter_t));
  switch (at->tag) {
  case PLACE(EMBED):
    one(&all, "vocab_embedding", ".weight", "wte", table, 2, false);
    one(&all, "position_embedding", ".weight", "wpe", positions, 2, false);
    break;
  case PLACE(BLOCK):
    all.prefix = "transformer.h.";
    decimal(all.layer, at->val.block);
    norm(&all, "input_layernorm", ".ln_1", width);
    fused(&all, ".weight", width);
    fused(&all, ".bias", width);
    linear(&all, "attention.dense", ".attn.c_proj", width, queries);
    norm(&all, "post_layernorm", ".ln_2", width);
    linear(&all, "mlp.fc", ".mlp.c_fc", inner, width);
    linear(&all, "mlp.proj", ".mlp.c_proj", width, inner);
    break;
  case PLACE(HEAD):
    norm(&all, "ln_f", "ln_f", width);
    if (model->tied) {
      parameter_t *head = add(&all, "lm_head", ".weight", ENGRAFT_PLUGIN_WEIGHTS_PRECISION_ANY);
      head->origin.tag = ORIGIN(TIED);
      head->origin.val.tied = text("vocab_embedding.weight");
    } else {
      all.prefix = "";
      one(&all, "lm_head", ".weight", "lm_head", table, 2, false);
    }
    break;
  }
  *parameters = all.list;
}

void exports_engraft_plugin_architecture_method_model_unused(
    model_t *model, string *dialect, plugin_list_tuple2_string_string_t *unused) {
  plugin_string_free(dialect);
  *unused = (plugin_list_tuple2_string_string_t){
      allocate(3, sizeof(plugin_tuple2_string_string_t)), model->tied ? 3 : 2};
  unused->ptr[0].f0 = text("*h.*.attn.bias");
  unused->ptr[0].f1 = text("it is a mask");
  unused->ptr[1].f0 = text("*.attn.masked_bias");
  unused->ptr[1].f1 = text("it is a mask");
  if (model->tied) {
    unused->ptr[2].f0 = text("lm_head.weight");
    unused->ptr[2].f1 = text("the head is the embedding's table");
  }
}

// --- The graph ----------------------------------------------------------------------------------

static weight_t parameter(builder_t g, const char *layer, const char *suffix) {
  string name = joined(layer, suffix, "");
  weight_t weight;
  CALL(parameter)(g, &name, &weight);
  plugin_string_free(&name);
  return weight;
}

static value_t dense(builder_t g, value_t input, const char *layer) {
  weight_t weight = parameter(g, layer, ".weight"), bias = parameter(g, layer, ".bias");
  value_t result;
  CALL(linear)(g, &input, &weight, &bias, &result);
  return result;
}

static value_t layer_norm(builder_t g, value_t input, const char *layer, double epsilon) {
  weight_t weight = parameter(g, layer, ".weight"), bias = parameter(g, layer, ".bias");
  value_t result;
  CALL(layer_norm)(g, &input, &weight, &bias, epsilon, &result);
  return result;
}

static value_t sum(builder_t g, value_t left, value_t right) {
  value_t result;
  CALL(add)(g, &left, &right, &result);
  return result;
}

static value_t attention(builder_t g, const model_t *model, value_t input) {
  uint64_t width = model->sizes[HIDDEN];
  uint32_t heads = model->sizes[HEADS];
  value_t fused = dense(g, input, "attention.qkv"), result;
  plugin_list_u64_t sizes = {(uint64_t[]){width, width, width}, 3};
  engraft_plugin_graph_list_value_t qkv;
  CALL(split)(g, &fused, &sizes, &qkv);
  engraft_plugin_graph_own_attention_t options =
      engraft_plugin_graph_constructor_attention(heads, heads, (uint32_t)width / heads);
  CALL(attend)(g, &qkv.ptr[0], &qkv.ptr[1], &qkv.ptr[2],
               engraft_plugin_graph_borrow_attention(options), &result);
  engraft_plugin_graph_attention_drop_own(options);
  engraft_plugin_graph_list_value_free(&qkv);
  return dense(g, result, "attention.dense");
}

static value_t feed_forward(builder_t g, const model_t *model, value_t input) {
  value_t inner = dense(g, input, "mlp.fc"), active;
  string activation = model->activation;
  CALL(activate)(g, &inner, &activation, &active);
  return dense(g, active, "mlp.proj");
}

void exports_engraft_plugin_architecture_method_model_write(
    model_t *model, exports_engraft_plugin_architecture_borrow_builder_t g, place_t *at,
    exports_engraft_plugin_architecture_list_value_t *carry,
    exports_engraft_plugin_architecture_list_value_t *returned) {
  value_t x = carry->ptr[0], y;
  weight_t weight;
  switch (at->tag) {
  case PLACE(EMBED):
    weight = parameter(g, "vocab_embedding", ".weight");
    CALL(embedding)(g, &x, &weight, &y);
    weight = parameter(g, "position_embedding", ".weight");
    CALL(positions)(g, &weight, &x);
    x = sum(g, y, x);
    break;
  case PLACE(BLOCK):
    y = layer_norm(g, x, "input_layernorm", model->epsilon);
    x = sum(g, x, attention(g, model, y));
    y = layer_norm(g, x, "post_layernorm", model->epsilon);
    x = sum(g, x, feed_forward(g, model, y));
    break;
  case PLACE(HEAD):
    y = layer_norm(g, x, "ln_f", model->epsilon);
    weight = parameter(g, "lm_head", ".weight");
    CALL(linear)(g, &y, &weight, 0, &x);
    break;
  }
  exports_engraft_plugin_architecture_list_value_free(carry);
  *returned = (exports_engraft_plugin_architecture_list_value_t){allocate(1, sizeof(value_t)), 1};
  returned->ptr[0] = x;
  // What was lent for this call is given back.
  engraft_plugin_graph_builder_drop_borrow(g);
}
