//! How much work a component is to compile, counted before any of it is done.
//!
//! Compiling is not metered, cannot be stopped once begun, and a few bytes can ask for much of it.
//! So what it will cost is counted first, in one pass over the bytes that keeps almost nothing:
//!
//! - a function costs a unit for each operator, one for each value that a call or a block takes or
//!   gives (one byte names a type of a thousand), one for each target of a branch table, and one
//!   for each local at each place where control joins (what becomes a φ in SSA form: this product
//!   is what makes a small function slow);
//! - components that instantiate one another are expanded by the compiler, twice for each that
//!   says so, down to the bottom: thirty of them, a kilobyte, are 2³⁰ instances. They are counted
//!   as if each instance were of the largest component that there is so far.
//!
//! The counts bound time and memory; a deadline and a watch on memory stand behind them, for what
//! they do not see.

use crate::Limits;
use crate::error::Problem;
use engraft_diagnostic::escape;
use wasmparser::{
    BinaryReaderError, BlockType, ComponentInstance, ComponentTypeRef, CompositeInnerType,
    Encoding, FunctionBody, Instance, Operator, Parser, Payload, TypeRef,
};

/// What compiling a component amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bulk {
    /// Functions of all its modules.
    pub functions: u64,
    /// Units of work of all of them, and of what stands around them.
    pub work: u64,
    /// The most of one function.
    pub largest: u64,
    /// Instances once every component is expanded.
    pub instances: u64,
}

/// Counts a component, and stops where it is more than allowed.
///
/// # Errors
/// [`Problem::Invalid`] where it does not parse, [`Problem::TooMuchToCompile`].
pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Result<Bulk, Problem> {
    let mut count = Count { limits, bulk: Bulk::default(), levels: Vec::new(), heaviest: 0 };
    for payload in Parser::new(0).parse_all(bytes) {
        count.payload(payload.map_err(invalid)?)?;
    }
    Ok(count.bulk)
}

fn invalid(error: BinaryReaderError) -> Problem {
    Problem::Invalid(escape(&error.to_string()))
}

/// One of the modules and components that lie in each other where the pass is.
#[derive(Default)]
struct Level {
    component: bool,
    /// Of a module: how many values each of its types takes and gives.
    types: Vec<u64>,
    /// Of a module: the type of each of its functions, imported ones first.
    functions: Vec<u32>,
    /// Of a module: how many of its functions have had their bodies.
    bodies: usize,
    /// Of a module: how many of its functions are imported.
    imported: usize,
    /// Of a component: its instances, expanded.
    instances: u64,
}

impl Level {
    fn arity(&self, ty: u32) -> u64 {
        self.types.get(ty as usize).copied().unwrap_or(0)
    }

    fn arity_of_function(&self, function: u32) -> u64 {
        self.functions.get(function as usize).map_or(0, |&ty| self.arity(ty))
    }
}

struct Count<'a> {
    limits: &'a Limits,
    bulk: Bulk,
    levels: Vec<Level>,
    /// The most instances that one component so far expands to.
    heaviest: u64,
}

impl Count<'_> {
    fn payload(&mut self, payload: Payload) -> Result<(), Problem> {
        use Payload as P;
        if let P::Version { encoding, .. } = payload {
            let component = encoding == Encoding::Component;
            self.levels.push(Level { component, ..Level::default() });
            return Ok(());
        }
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let items = match payload {
            P::TypeSection(section) => {
                let count = section.count();
                for group in section {
                    for ty in group.map_err(invalid)?.types() {
                        level.types.push(match &ty.composite_type.inner {
                            CompositeInnerType::Func(function) => {
                                (function.params().len() + function.results().len()) as u64
                            }
                            _ => 0,
                        });
                    }
                }
                count
            }
            P::ImportSection(section) => {
                let count = section.count();
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) = import.map_err(invalid)?.ty {
                        level.functions.push(ty);
                    }
                }
                level.imported = level.functions.len();
                count
            }
            P::FunctionSection(section) => {
                let count = section.count();
                for ty in section {
                    level.functions.push(ty.map_err(invalid)?);
                }
                count
            }
            P::CodeSectionEntry(body) => return self.function(&body),
            P::InstanceSection(section) => {
                let count = section.count();
                for instance in section {
                    if let Instance::Instantiate { .. } = instance.map_err(invalid)? {
                        level.instances = level.instances.saturating_add(1);
                    }
                }
                self.check_instances()?;
                count
            }
            P::ComponentInstanceSection(section) => {
                let count = section.count();
                for instance in section {
                    if let ComponentInstance::Instantiate { .. } = instance.map_err(invalid)? {
                        let expanded = self.heaviest.saturating_add(1);
                        level.instances = level.instances.saturating_add(expanded);
                    }
                }
                self.check_instances()?;
                count
            }
            P::ComponentImportSection(section) => {
                let count = section.count();
                for import in section {
                    // Such a one would be expanded as what is passed for it, which is not known.
                    if let ComponentTypeRef::Component(_) = import.map_err(invalid)?.ty {
                        return Err(Problem::Invalid("it imports a component".into()));
                    }
                }
                count
            }
            P::End(_) => {
                if let Some(Level { component: true, instances, .. }) = self.levels.pop() {
                    self.heaviest = self.heaviest.max(instances);
                    self.bulk.instances = instances;
                }
                0
            }
            P::TableSection(section) => section.count(),
            P::GlobalSection(section) => section.count(),
            P::ExportSection(section) => section.count(),
            P::ElementSection(section) => section.count(),
            P::DataSection(section) => section.count(),
            P::CoreTypeSection(section) => section.count(),
            P::ComponentTypeSection(section) => section.count(),
            P::ComponentAliasSection(section) => section.count(),
            P::ComponentCanonicalSection(section) => section.count(),
            P::ComponentExportSection(section) => section.count(),
            P::ModuleSection { .. } | P::ComponentSection { .. } => 1,
            _ => 0,
        };
        self.add(items.into())
    }

    fn check_instances(&self) -> Result<(), Problem> {
        let all = self.levels.iter().map(|level| level.instances);
        let found = all.fold(0, u64::saturating_add);
        let limit = self.limits.expanded_instances;
        if found <= limit {
            return Ok(());
        }
        let (what, setting) = ("instances once it is expanded", "expanded_instances");
        Err(Problem::TooMuchToCompile { what: what.into(), found, limit, setting })
    }

    fn add(&mut self, work: u64) -> Result<(), Problem> {
        self.bulk.work = self.bulk.work.saturating_add(work);
        let (found, limit) = (self.bulk.work, self.limits.compile_work);
        if found <= limit {
            return Ok(());
        }
        let what = "units of work in all".into();
        Err(Problem::TooMuchToCompile { what, found, limit, setting: "compile_work" })
    }

    fn function(&mut self, body: &FunctionBody) -> Result<(), Problem> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let index = level.imported + level.bodies;
        level.bodies += 1;
        let work = function(level, index as u32, body).map_err(invalid)?;
        self.bulk.functions += 1;
        self.bulk.largest = self.bulk.largest.max(work);
        let limit = self.limits.function_work;
        if work > limit {
            let what = format!("units of work in function {index}");
            let setting = "function_work";
            return Err(Problem::TooMuchToCompile { what, found: work, limit, setting });
        }
        self.add(work)
    }
}

/// Units of work of one function.
fn function(level: &Level, index: u32, body: &FunctionBody) -> Result<u64, BinaryReaderError> {
    let mut locals = level.arity_of_function(index);
    for group in body.get_locals_reader()? {
        locals = locals.saturating_add(group?.0.into());
    }
    // Every function has its beginning and its end.
    let (mut units, mut joins) = (0u64, 2u64);
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let block = |ty: &BlockType| match ty {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(ty) => level.arity(*ty),
        };
        let (values, joined) = match &operators.read()? {
            Operator::Block { blockty } => (block(blockty), 1),
            Operator::Loop { blockty } => (block(blockty), 2),
            Operator::If { blockty } => (block(blockty), 3),
            Operator::BrIf { .. } => (0, 1),
            Operator::BrTable { targets } => (u64::from(targets.len()), targets.len().into()),
            Operator::Call { function_index: function }
            | Operator::ReturnCall { function_index: function } => {
                (level.arity_of_function(*function), 0)
            }
            Operator::CallIndirect { type_index, .. }
            | Operator::ReturnCallIndirect { type_index, .. } => (level.arity(*type_index), 0),
            _ => (0, 0),
        };
        units = units.saturating_add(1).saturating_add(values);
        joins = joins.saturating_add(joined);
    }
    Ok(units.saturating_add(locals.saturating_mul(joins)))
}
