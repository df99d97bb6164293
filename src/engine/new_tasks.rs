//! Tasks on their way in, each with the host that it asks first: a URL is parsed once, where it is checked.

use std::sync::Arc;

use url::Url;

use crate::model::host::Host;
use crate::model::spec::TaskSpec;

/// Tasks that a client submits, each with its host.
#[derive(Clone, Debug, Default)]
pub struct NewTasks {
    specs: Vec<TaskSpec>,
    hosts: Vec<Host>,
}

impl NewTasks {
    /// No tasks yet, with room for so many.
    pub fn with_capacity(count: usize) -> NewTasks {
        NewTasks { specs: Vec::with_capacity(count), hosts: Vec::with_capacity(count) }
    }

    /// Adds a task and the host of its URL. One whose URL has none fails in its attempt, in the lane of no host.
    pub fn add(&mut self, spec: TaskSpec, host: Option<Host>) {
        self.specs.push(spec);
        self.hosts.push(host.unwrap_or_else(|| Host::new(":0")));
    }

    /// What they are to do, in order.
    pub fn specs(&self) -> &[TaskSpec] {
        &self.specs
    }
}

/// Parses the URL of each.
impl From<Vec<TaskSpec>> for NewTasks {
    fn from(specs: Vec<TaskSpec>) -> NewTasks {
        let host_of = |spec: &TaskSpec| Url::parse(spec.work.url()).ok().and_then(|url| Host::of(&url));
        let mut tasks = NewTasks::with_capacity(specs.len());
        for spec in specs {
            let host = host_of(&spec);
            tasks.add(spec, host);
        }
        tasks
    }
}

/// Tasks on their way to the scheduler, each with its host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) specs: Vec<Arc<TaskSpec>>,
    pub(crate) hosts: Vec<Host>,
}

impl From<NewTasks> for Tasks {
    fn from(new: NewTasks) -> Tasks {
        Tasks { specs: new.specs.into_iter().map(Arc::new).collect(), hosts: new.hosts }
    }
}
