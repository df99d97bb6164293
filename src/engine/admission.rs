//! Whether a tenant may have what is asked for. Pure.

use std::time::Duration;

use crate::engine::command::EngineError;
use crate::model::quotas::{Quota, Usage};
use crate::model::spec::JobSpec;
use crate::model::tenant::Tenant;

/// Judges whether a tenant that has `is` may have `more`.
///
/// # Errors
///
/// It is suspended, or would have more than one of its quotas allows.
pub(crate) fn amount(tenant: &Tenant, is: Usage, more: Usage) -> Result<(), EngineError> {
    if tenant.is_suspended {
        return Err(EngineError::Suspended(tenant.name.to_string()));
    }
    match tenant.quotas.exceeded(is, more) {
        None => Ok(()),
        Some((quota, most)) => Err(EngineError::Quota { tenant: tenant.name.to_string(), quota, most }),
    }
}

/// Judges for how long a job is to be kept and its attempts may take; of its tasks each attempt as it asks itself.
///
/// # Errors
///
/// It asks for more than its tenant may have.
pub(crate) fn times(
    tenant: &Tenant,
    spec: &JobSpec,
    attempts: impl Iterator<Item = Option<Duration>>,
) -> Result<(), EngineError> {
    let (kept, attempt) = (tenant.quotas.max_retention, tenant.quotas.max_attempt);
    longer(tenant, Quota::MaxRetention, "job.retention", spec.retention, kept)?;
    longer(tenant, Quota::MaxAttempt, "job.defaults.timeouts.attempt", spec.defaults.timeouts.attempt, attempt)?;
    self::attempts(tenant, "job.tasks", attempts)
}

/// Judges how long the attempts of a list of tasks may take.
///
/// # Errors
///
/// One of them asks for more than its tenant may have.
pub(crate) fn attempts(
    tenant: &Tenant,
    list: &str,
    asked: impl Iterator<Item = Option<Duration>>,
) -> Result<(), EngineError> {
    let Some(most) = tenant.quotas.max_attempt else { return Ok(()) };
    match asked.enumerate().find(|(_, asked)| asked.is_some_and(|asked| asked > most)) {
        None => Ok(()),
        Some((index, asked)) => {
            let field = format!("{list}[{index}].options.timeouts.attempt");
            longer(tenant, Quota::MaxAttempt, &field, asked, Some(most))
        }
    }
}

fn longer(
    tenant: &Tenant,
    quota: Quota,
    field: &str,
    asked: Option<Duration>,
    most: Option<Duration>,
) -> Result<(), EngineError> {
    match asked.zip(most) {
        Some((asked, most)) if asked > most => {
            let (tenant, field) = (tenant.name.to_string(), field.to_owned());
            Err(EngineError::Longer { tenant, quota, field, asked, most })
        }
        _ => Ok(()),
    }
}
