//! The functions and settings that an expression may use: the [`ContextProvider`] of DataFusion's SQL planner.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_aggregate::planner::AggregateFunctionPlanner;

/// Results that no table column can hold, or answers about the engine instead of the record.
const LEFT_OUT: [&str; 14] = [
    "arrow_cast",
    "arrow_field",
    "arrow_metadata",
    "arrow_try_cast",
    "arrow_typeof",
    "cast_to_type",
    "file_row_index",
    "get_field",
    "input_file_name",
    "named_struct",
    "struct",
    "try_cast_to_type",
    "version",
    "with_metadata",
];

/// Immutable for DataFusion, but reading the zone of a session that Pulso does not have.
const LEFT_OUT_PREFIXES: [&str; 2] = ["union_", "to_local_time"];

pub(crate) static CONFIG: LazyLock<Arc<ConfigOptions>> = LazyLock::new(|| {
    let mut options = ConfigOptions::default();
    options.execution.time_zone = Some("UTC".into());
    options.sql_parser.map_string_types_to_utf8view = false;
    Arc::new(options)
});

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::new);

struct Catalog {
    scalar: BTreeMap<String, Arc<ScalarUDF>>,
    aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

impl Catalog {
    fn new() -> Self {
        let mut scalar = BTreeMap::new();
        for function in datafusion_functions::all_default_functions() {
            if left_out(function.name()) {
                continue;
            }
            for alias in function.aliases() {
                scalar.insert(alias.clone(), function.clone());
            }
            scalar.insert(function.name().to_owned(), function);
        }
        let mut aggregate = BTreeMap::new();
        for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
            for alias in function.aliases() {
                aggregate.insert(alias.clone(), function.clone());
            }
            aggregate.insert(function.name().to_owned(), function);
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(CoreFunctionPlanner::default()),
            Arc::new(UnicodeFunctionPlanner),
            Arc::new(DatetimeFunctionPlanner),
            Arc::new(AggregateFunctionPlanner),
        ];
        Self { scalar, aggregate, planners }
    }
}

fn left_out(name: &str) -> bool {
    LEFT_OUT.contains(&name) || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Names (aliases too) of all functions that an expression may call, sorted.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    CATALOG
        .scalar
        .iter()
        .filter(|(_, function)| function.signature().volatility == Volatility::Immutable)
        .map(|(name, _)| name.as_str())
}

/// What the SQL planner may look up. Remembers the last function that does not exist, which the planner's error only
/// tells in prose.
#[derive(Default)]
pub(crate) struct Functions {
    unknown: RefCell<Option<String>>,
}

impl Functions {
    pub(crate) fn unknown(&self) -> Option<String> {
        self.unknown.borrow().clone()
    }
}

impl ContextProvider for Functions {
    fn get_table_source(&self, _name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("an expression cannot read a table")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &CATALOG.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let found = CATALOG.scalar.get(name).cloned();
        if found.is_none() && !CATALOG.aggregate.contains_key(name) {
            *self.unknown.borrow_mut() = Some(name.to_owned());
        }
        found
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        CATALOG.aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &CONFIG
    }

    fn udf_names(&self) -> Vec<String> {
        CATALOG.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        CATALOG.aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
