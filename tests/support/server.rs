//! A real `haul serve` process on a free port, over a directory that survives its restarts.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use haul::pb;
use haul::pb::admin_service_client::AdminServiceClient;
use haul::pb::content_service_client::ContentServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use tonic::transport::Channel;

/// How long anything may take before a test says that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Directories and flags of a server, and the process while it runs.
pub struct Server {
    dir: tempfile::TempDir,
    pub flags: Vec<String>,
    /// What its environment says, beside what that of the tests does.
    pub variables: Vec<(&'static str, String)>,
    /// How many descriptors it may have; `None`: as many as this process.
    descriptors: Option<u32>,
    child: Option<Child>,
    pub address: String,
    pub channel: Channel,
    log: Arc<Mutex<String>>,
    /// Reads the log until its process has ended.
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// A server that may reach this machine.
    pub async fn start() -> Server {
        Server::with(&["--allow-private-networks"]).await
    }

    /// A server with these flags beside those that place it.
    pub async fn with(flags: &[&str]) -> Server {
        Server::over(tempfile::tempdir().unwrap(), flags).await
    }

    /// A server over a directory that is there: `data` and `downloads` below it.
    pub async fn over(dir: tempfile::TempDir, flags: &[&str]) -> Server {
        Server::within(dir, flags, Vec::new()).await
    }

    /// As [`Server::over`], with these variables in its environment.
    pub async fn within(dir: tempfile::TempDir, flags: &[&str], variables: Vec<(&'static str, String)>) -> Server {
        let flags = flags.iter().map(ToString::to_string).collect();
        let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
        let log = Arc::default();
        let mut server = Server {
            dir,
            flags,
            variables,
            descriptors: None,
            child: None,
            address: String::new(),
            channel,
            log,
            reader: None,
        };
        server.launch().await;
        server
    }

    /// Starts it anew, as a process that may have so many descriptors.
    pub async fn limit_descriptors(&mut self, count: u32) {
        self.terminate();
        self.descriptors = Some(count);
        self.launch().await;
    }

    /// Starts the process over what the last one left.
    pub async fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = command(self.dir.path(), &self.flags);
        command.envs(self.variables.iter().cloned());
        if let Some(count) = self.descriptors {
            command = limited(&command, count);
        }
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = self.log.clone();
        self.reader = Some(std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().unwrap().push_str(&(line + "\n"));
            }
        }));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        self.address =
            address.unwrap_or_else(|| panic!("it said `{line}` and not where it listens; log:\n{}", self.log()));
        self.channel = Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        self.child = Some(child);
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.child.as_mut().unwrap().kill().unwrap();
        self.ended_itself();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.ended_itself()
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        let done = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits until it has ended by itself, and all that it logged is read.
    pub fn ended_itself(&mut self) -> ExitStatus {
        let status = self.child.take().unwrap().wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn contents(&self) -> ContentServiceClient<Channel> {
        ContentServiceClient::new(self.channel.clone())
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Where downloads go.
    pub fn downloads(&self) -> PathBuf {
        self.dir.path().join("downloads")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it wrote to stderr so far, over all its lives.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The most memory that it has had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    /// Submits a job of these tasks and gives its id.
    pub async fn submit(&self, job: pb::JobSpec) -> String {
        let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
        self.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
    }

    /// Waits for the end of a job.
    pub async fn ended(&self, job_id: &str) -> pb::Job {
        let request = pb::WaitJobRequest { job_id: job_id.to_owned(), timeout: None };
        let waited = tokio::time::timeout(PATIENCE, self.jobs().wait_job(request.clone())).await;
        let Ok(job) = waited else {
            panic!("job {job_id} does not end; {:#?}\nlog:\n{}", self.job(job_id).await, self.log());
        };
        job.unwrap().into_inner().job.unwrap()
    }

    /// Submits a job and waits for its end.
    pub async fn run(&self, job: pb::JobSpec) -> pb::Job {
        let id = self.submit(job).await;
        self.ended(&id).await
    }

    pub async fn job(&self, job_id: &str) -> pb::Job {
        let request = pb::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
        self.jobs().get_job(request).await.unwrap().into_inner().job.unwrap()
    }

    /// One task with its body and its attempts.
    pub async fn task(&self, job_id: &str, index: u32) -> pb::Task {
        let task = Some(pb::get_task_request::Task::TaskIndex(index));
        let request = pb::GetTaskRequest { job_id: job_id.to_owned(), task, include_body: true, ..Default::default() };
        self.jobs().get_task(request).await.unwrap().into_inner().task.unwrap()
    }

    /// All tasks of a job.
    pub async fn tasks(&self, job_id: &str) -> Vec<pb::Task> {
        let mut tasks = Vec::new();
        let mut page_token = String::new();
        loop {
            let request =
                pb::ListTasksRequest { job_id: job_id.to_owned(), page_size: 1000, page_token, ..Default::default() };
            let page = self.jobs().list_tasks(request).await.unwrap().into_inner();
            tasks.extend(page.tasks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return tasks;
            }
        }
    }

    /// The durable events of a job after a sequence, to the end of its stream.
    pub async fn events(&self, job_id: &str, after: u64) -> Vec<pb::WatchJobResponse> {
        let request =
            pb::WatchJobRequest { job_id: job_id.to_owned(), after_sequence: Some(after), ..Default::default() };
        let mut stream = self.jobs().watch_job(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
            events.push(event);
        }
        events.into_iter().filter(is_durable).collect()
    }

    /// Every file below the download root, relative to it.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        list(&self.downloads(), &self.downloads(), &mut files);
        files.sort();
        files
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs the binary to its end with these arguments.
pub fn haul(args: &[&str]) -> std::process::Output {
    Command::new(binary()).args(args).env("HAUL_LOG", "warn").output().unwrap()
}

/// The binary under test: the one that was built with the test, or `HAUL_BIN`.
pub fn binary() -> PathBuf {
    std::env::var_os("HAUL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_haul").into(), PathBuf::from)
}

/// The same command for a process that may have so many descriptors.
pub fn limited(command: &Command, descriptors: u32) -> Command {
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    limited
}

pub fn command(dir: &Path, flags: &[String]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--download-dir")
        .arg(dir.join("downloads"))
        .args(flags)
        .env("HAUL_LOG", "haul=info,warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a command that must fail says.
pub fn refusal(mut command: Command) -> (i32, String) {
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code().unwrap(), text)
}

/// Waits until something holds, and fails when it does not come.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As [`until`], for tests without a runtime.
pub fn until_now(holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_durable(event: &pb::WatchJobResponse) -> bool {
    use pb::watch_job_response::Event;
    matches!(event.event, Some(Event::TaskEnded(_) | Event::JobChanged(_) | Event::JobEnded(_)))
}

fn list(root: &Path, dir: &Path, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}
