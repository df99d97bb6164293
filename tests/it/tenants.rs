//! Tenants: nothing of one is there for another, by any method, list, watch, path or number.

use std::collections::BTreeSet;

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::admin_service_client::AdminServiceClient;
use haul::pb::content_service_client::ContentServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};

use crate::it::access::{Sent, bearer, reason, refused};
use crate::it::wire::call;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, command, refusal, until};
use crate::support::spec::{download_as, fetch, job};

/// An id that no job ever had.
const NEVER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Calls about a tenant; `token`: of whom, empty: of the server's own user.
pub(crate) fn about(server: &Server, tenant: &str, token: &str) -> Sent {
    let text = |text: &str| -> MetadataValue<Ascii> { text.parse().unwrap() };
    let (tenant, token) = (text(tenant), (!token.is_empty()).then(|| text(&bearer(token))));
    InterceptedService::new(
        server.channel.clone(),
        Box::new(move |mut request: Request<()>| {
            request.metadata_mut().insert("haul-tenant", tenant.clone());
            if let Some(token) = &token {
                request.metadata_mut().insert("authorization", token.clone());
            }
            Ok(request)
        }),
    )
}

pub(crate) fn jobs(server: &Server, tenant: &str) -> JobServiceClient<Sent> {
    JobServiceClient::new(about(server, tenant, ""))
}

pub(crate) fn access(server: &Server) -> AccessServiceClient<Sent> {
    AccessServiceClient::new(about(server, "default", ""))
}

pub(crate) async fn make(server: &Server, names: &[&str]) {
    for name in names {
        let tenant = Some(pb::Tenant { name: (*name).to_owned(), ..Default::default() });
        let made = access(server).create_tenant(pb::CreateTenantRequest { tenant, ..Default::default() }).await;
        assert_eq!(made.unwrap().into_inner().tenant.unwrap().name, *name);
    }
}

pub(crate) async fn delete(server: &Server, name: &str) -> Result<(), Status> {
    let request = pb::DeleteTenantRequest { name: name.to_owned(), ..Default::default() };
    access(server).delete_tenant(request).await.map(drop)
}

pub(crate) async fn submit(server: &Server, tenant: &str, job: pb::JobSpec, request_id: &str) -> pb::Job {
    let request = pb::SubmitJobRequest { job: Some(job), request_id: request_id.to_owned(), validate_only: false };
    jobs(server, tenant).submit_job(request).await.unwrap().into_inner().job.unwrap()
}

pub(crate) async fn ended(server: &Server, tenant: &str, id: &str) -> pb::Job {
    let request = pb::WaitJobRequest { job_id: id.to_owned(), ..Default::default() };
    jobs(server, tenant).wait_job(request).await.unwrap().into_inner().job.unwrap()
}

pub(crate) fn open_job(label: &str) -> pb::JobSpec {
    let labels = [("team".to_owned(), label.to_owned())].into();
    pb::JobSpec { open: true, labels, ..job(Vec::new()) }
}

fn to(origin: &Origin, url: &str, path: &str) -> pb::JobSpec {
    let spec = pb::DownloadSpec { url: origin.url(url), path: path.to_owned(), ..Default::default() };
    pb::JobSpec { directory: "d".into(), ..job(vec![download_as(spec)]) }
}

async fn list(server: &Server, tenant: &str, request: pb::ListJobsRequest) -> BTreeSet<String> {
    let page = jobs(server, tenant).list_jobs(request).await.unwrap().into_inner();
    page.jobs.into_iter().map(|job| job.job_id).collect()
}

pub(crate) fn names(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// The methods whose request names a job, as the descriptors have them.
fn methods_of_a_job() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let messages: Vec<_> = set.file.iter().flat_map(|file| &file.message_type).collect();
    let names_a_job = |input: &str| {
        let message = messages.iter().find(|it| input.ends_with(&format!(".{}", it.name()))).unwrap();
        message.field.iter().any(|field| field.name() == "job_id")
    };
    let services = set.file.iter().flat_map(|file| &file.service);
    let all = services.flat_map(|service| service.method.iter().map(move |method| (service.name(), method)));
    all.filter(|(_, method)| names_a_job(method.input_type()))
        .map(|(service, method)| format!("{service}/{}", method.name()))
        .collect()
}

/// Every method that takes a job, with a request that is about `id`.
fn requests(id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let job_id = || id.to_owned();
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let of_task = Some(pb::get_task_request::Task::TaskIndex(0));
    let read = Some(pb::read_content_request::Task::TaskIndex(0));
    let items = Some(pb::stream_items_request::Task::TaskIndex(0));
    let update = pb::UpdateJobRequest { job_id: job_id(), update_mask: mask("title"), ..Default::default() };
    let add = pb::AddTasksRequest { job_id: job_id(), chunk_id: "c".into(), tasks: vec![fetch("http://a.example/")] };
    vec![
        ("JobService/GetJob", pb::GetJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        (
            "JobService/GetTask",
            pb::GetTaskRequest { job_id: job_id(), task: of_task, ..Default::default() }.encode_to_vec(),
        ),
        ("JobService/ListTasks", pb::ListTasksRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        (
            "JobService/ListJobEvents",
            pb::ListJobEventsRequest { job_id: job_id(), ..Default::default() }.encode_to_vec(),
        ),
        ("JobService/WatchJob", pb::WatchJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        ("JobService/WaitJob", pb::WaitJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        ("JobService/AddTasks", add.encode_to_vec()),
        ("JobService/SealJob", pb::SealJobRequest { job_id: job_id() }.encode_to_vec()),
        ("JobService/CancelJob", pb::CancelJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        ("JobService/PauseJob", pb::PauseJobRequest { job_id: job_id() }.encode_to_vec()),
        ("JobService/ResumeJob", pb::ResumeJobRequest { job_id: job_id() }.encode_to_vec()),
        ("JobService/RetryJob", pb::RetryJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        (
            "JobService/CancelTasks",
            pb::CancelTasksRequest { job_id: job_id(), task_indexes: vec![0], ..Default::default() }.encode_to_vec(),
        ),
        (
            "JobService/RetryNow",
            pb::RetryNowRequest { job_id: job_id(), task_indexes: vec![0], ..Default::default() }.encode_to_vec(),
        ),
        ("JobService/UpdateJob", update.encode_to_vec()),
        ("JobService/DeleteJob", pb::DeleteJobRequest { job_id: job_id(), ..Default::default() }.encode_to_vec()),
        (
            "ContentService/ReadContent",
            pb::ReadContentRequest { job_id: job_id(), task: read, ..Default::default() }.encode_to_vec(),
        ),
        (
            "ContentService/StreamItems",
            pb::StreamItemsRequest { job_id: job_id(), task: items, ..Default::default() }.encode_to_vec(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_tells_another_tenants_job_from_one_that_never_was() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    origin.reply("/hang", Reply::hang());
    make(&server, &["a", "b"]).await;
    let mut all = Vec::new();
    for tenant in ["a", "b", "default"] {
        let done = submit(&server, tenant, job(vec![fetch(origin.url("/a"))]), "").await.job_id;
        let file = submit(&server, tenant, to(&origin, "/a", "x"), "").await.job_id;
        let running = submit(&server, tenant, job(vec![fetch(origin.url("/hang"))]), "").await.job_id;
        let open = submit(&server, tenant, open_job("red"), "").await.job_id;
        for id in [&done, &file] {
            assert_eq!(ended(&server, tenant, id).await.state(), pb::JobState::Succeeded);
        }
        all.extend([done, file, running, open].map(|id| (tenant, id)));
    }
    let before = async |server: &Server| {
        let mut states = Vec::new();
        for (tenant, id) in &all {
            let request = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
            let job = jobs(server, tenant).get_job(request).await.unwrap().into_inner().job.unwrap();
            assert_eq!((job.tenant.as_str(), job.created_by.as_str()), (*tenant, "local"));
            states.push((job.job_id, job.state, job.sequence));
        }
        states
    };
    until(|| async { origin.in_flight() >= 3 }).await;
    assert_eq!(names(&requests("").iter().map(|(name, _)| *name).collect::<Vec<_>>()), methods_of_a_job());
    let seed = rand::random();
    let mut rng = SmallRng::seed_from_u64(seed);
    for is_again in [false, true] {
        let states = before(&server).await;
        for _ in 0..250 {
            let (owner, id) = &all[rng.random_range(0..all.len())];
            let caller = ["a", "b", "default"][rng.random_range(0..3)];
            let (method, message) = requests(id).swap_remove(rng.random_range(0..requests(id).len()));
            if caller == *owner {
                continue;
            }
            let method = format!("haul.v1.{method}");
            let never = requests(NEVER).into_iter().find(|(name, _)| method.ends_with(name)).unwrap().1;
            let headers = [("haul-tenant", caller)];
            let theirs = call(&server, &method, &message, &headers).await;
            let none = call(&server, &method, &never, &headers).await;
            let (theirs, none) = (theirs.status(), none.status());
            assert_eq!(reason(&theirs), (Code::NotFound, "JOB_NOT_FOUND".to_owned()), "{method} {seed}");
            assert_eq!(reason(&none), reason(&theirs), "{method} {seed}");
            assert_eq!(theirs.message().replace(id, ""), none.message().replace(NEVER, ""), "{method} {seed}");
        }
        assert_eq!(before(&server).await, states, "nothing of that did anything; seed {seed}");
        if !is_again {
            server.restart().await;
            until(|| async { origin.in_flight() >= 3 }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_labels_lists_and_page_tokens_are_each_tenants_own() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let first = submit(&server, "a", open_job("red"), "same").await.job_id;
    let other = submit(&server, "b", open_job("red"), "same").await.job_id;
    let own = submit(&server, "default", open_job("red"), "same").await.job_id;
    assert_eq!(submit(&server, "a", open_job("red"), "same").await.job_id, first);
    assert_eq!(names(&[&first, &other, &own]).len(), 3, "a request id is one's own");
    let more = submit(&server, "a", open_job("blue"), "").await.job_id;
    let labelled = |value: &str| pb::ListJobsRequest {
        labels: [("team".to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let all = pb::ListJobsRequest::default;
    assert_eq!(list(&server, "a", all()).await, names(&[&first, &more]));
    assert_eq!(list(&server, "b", all()).await, names(&[&other]));
    assert_eq!(list(&server, "default", all()).await, names(&[&own]));
    assert_eq!(list(&server, "a", labelled("red")).await, names(&[&first]));
    assert_eq!(list(&server, "b", labelled("blue")).await, names(&[]));
    assert_eq!(list(&server, "*", all()).await, names(&[&first, &more, &other, &own]));
    assert_eq!(list(&server, "*", labelled("red")).await, names(&[&first, &other, &own]));
    let page = jobs(&server, "a").list_jobs(pb::ListJobsRequest { page_size: 1, ..all() }).await.unwrap().into_inner();
    assert_eq!((page.jobs[0].job_id.as_str(), page.examined), (more.as_str(), 1));
    let next = pb::ListJobsRequest { page_size: 1, page_token: page.next_page_token, ..all() };
    assert_eq!(list(&server, "a", next.clone()).await, names(&[&first]));
    for crossed in ["b", "default", "*"] {
        let refused = jobs(&server, crossed).list_jobs(next.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{crossed}");
    }
    let control = pb::ControlJobsRequest {
        action: pb::JobAction::Cancel.into(),
        filter: Some(pb::JobFilter { labels: labelled("red").labels, ..Default::default() }),
        ..Default::default()
    };
    let mut told = jobs(&server, "a").control_jobs(control).await.unwrap().into_inner();
    let mut last = pb::ControlJobsResponse::default();
    while let Some(message) = told.message().await.unwrap() {
        last = message;
    }
    assert_eq!((last.matched, last.done), (1, 1));
    let state = async |tenant: &str, id: &str| {
        let request = pb::GetJobRequest { job_id: id.to_owned(), ..Default::default() };
        jobs(&server, tenant).get_job(request).await.unwrap().into_inner().job.unwrap().state()
    };
    assert_eq!(state("a", &first).await, pb::JobState::Cancelled);
    assert_eq!(
        (state("b", &other).await, state("default", &own).await),
        (pb::JobState::Pending, pb::JobState::Pending)
    );
    // What is for one tenant alone is not for all.
    let get = pb::GetJobRequest { job_id: first, ..Default::default() };
    refused(jobs(&server, "*").get_job(get).await, Code::InvalidArgument, "TENANT_REQUIRED");
    let submit = pb::SubmitJobRequest { job: Some(open_job("red")), ..Default::default() };
    refused(jobs(&server, "*").submit_job(submit).await, Code::InvalidArgument, "TENANT_REQUIRED");
    refused(jobs(&server, "nobody").list_jobs(all()).await, Code::PermissionDenied, "TENANT_NOT_ALLOWED");
    let twice = [("haul-tenant", "a"), ("haul-tenant", "a")];
    let status = call(&server, "haul.v1.JobService/ListJobs", b"", &twice).await.status();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_silent_about_other_tenants() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    make(&server, &["a", "b"]).await;
    let wish = pb::WatchJobsRequest { totals: true, ..Default::default() };
    let mut watch = jobs(&server, "a").watch_jobs(wish).await.unwrap().into_inner();
    let theirs = submit(&server, "b", job(vec![fetch(origin.url("/a"))]), "").await.job_id;
    ended(&server, "b", &theirs).await;
    let delete = pb::DeleteJobRequest { job_id: theirs.clone(), ..Default::default() };
    jobs(&server, "b").delete_job(delete).await.unwrap();
    let held = submit(&server, "b", open_job("red"), "").await.job_id;
    let mine = submit(&server, "a", open_job("red"), "").await.job_id;
    let told = async {
        let mut created = 0;
        loop {
            match watch.message().await.unwrap().unwrap().event.unwrap() {
                pb::watch_jobs_response::Event::Job(job) => {
                    assert_eq!((&job.job_id, job.tenant.as_str()), (&mine, "a"));
                    if created == 1 {
                        return;
                    }
                    created = 1;
                }
                pb::watch_jobs_response::Event::Totals(totals) => {
                    let jobs: u32 = totals.jobs.iter().map(|it| it.count).sum();
                    assert!(jobs <= 1 && totals.jobs_created <= 1, "{totals:?}");
                    if totals.jobs_created == 1 {
                        return;
                    }
                }
                pb::watch_jobs_response::Event::Synced(synced) => assert_eq!(synced.more, 0),
                pb::watch_jobs_response::Event::DeletedJobId(id) => panic!("{id} is gone, and was never told of"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the own job is told of");
    // To name another's job changes nothing.
    let named = pb::WatchJobsRequest { job_ids: vec![held.clone(), mine.clone()], ..Default::default() };
    let mut watch = jobs(&server, "a").watch_jobs(named).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(pb::watch_jobs_response::Event::Job(job)) = watch.message().await.unwrap().unwrap().event {
        seen.push(job.job_id);
    }
    assert_eq!(seen, [mine.as_str()]);
    let info = |tenant: &str| AdminServiceClient::new(about(&server, tenant, ""));
    let counts = info("a").get_server_info(pb::GetServerInfoRequest {}).await.unwrap().into_inner().counts;
    assert!(counts.is_some(), "the server's own user sees all");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_of_one_tenant_leads_to_files_of_another() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("of a"));
    origin.reply("/b", Reply::ok("of b"));
    make(&server, &["a", "b"]).await;
    let run = async |tenant: &str, spec: pb::JobSpec| {
        let id = submit(&server, tenant, spec, "").await.job_id;
        ended(&server, tenant, &id).await
    };
    let theirs = run("b", to(&origin, "/b", "x")).await;
    assert_eq!(theirs.state(), pb::JobState::Succeeded);
    let file = |path: &str| std::fs::read_to_string(server.downloads().join(path)).unwrap_or_default();
    assert_eq!(file(".haul-tenants/b/d/x"), "of b");
    for path in [".haul-tenants/b/x", ".HAUL-tenants/b/x", ".Haul-Tenants/b/x", "y/.haul-tenants/b/x", "../b/x"] {
        for tenant in ["default", "a"] {
            let request = pb::SubmitJobRequest { job: Some(to(&origin, "/a", path)), ..Default::default() };
            let status = jobs(&server, tenant).submit_job(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}");
            let directory = pb::JobSpec { directory: path.to_owned(), ..to(&origin, "/a", "z") };
            let request = pb::SubmitJobRequest { job: Some(directory), ..Default::default() };
            let status = jobs(&server, tenant).submit_job(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}");
        }
    }
    // A file of the same name is each tenant's own: what is skipped, found and removed is one's own, too.
    let skipping = || {
        let on_conflict = pb::OnConflict::Skip.into();
        let spec = pb::DownloadSpec { url: origin.url("/a"), path: "x".into(), on_conflict, ..Default::default() };
        pb::JobSpec { directory: "d".into(), ..job(vec![download_as(spec)]) }
    };
    let mine = run("a", skipping()).await;
    assert_eq!(mine.state(), pb::JobState::Succeeded);
    assert_eq!((file(".haul-tenants/a/d/x").as_str(), file(".haul-tenants/b/d/x").as_str()), ("of a", "of b"));
    let mut contents = ContentServiceClient::new(about(&server, "b", ""));
    let task = Some(pb::read_content_request::Task::TaskIndex(0));
    let request = pb::ReadContentRequest { job_id: theirs.job_id.clone(), task, ..Default::default() };
    let mut stream = contents.read_content(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        read.extend(piece.data);
    }
    assert_eq!(read, b"of b");
    let remove = pb::DeleteJobRequest { job_id: mine.job_id, delete_files: true };
    jobs(&server, "a").delete_job(remove).await.unwrap();
    until(|| async { file(".haul-tenants/a/d/x").is_empty() }).await;
    assert_eq!(file(".haul-tenants/b/d/x"), "of b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_goes_when_no_job_is_left_and_a_new_one_of_its_name_inherits_nothing() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("old"));
    make(&server, &["a"]).await;
    let id = submit(&server, "a", to(&origin, "/a", "x"), "r").await.job_id;
    ended(&server, "a", &id).await;
    refused(delete(&server, "a").await, Code::FailedPrecondition, "TENANT_NOT_EMPTY");
    refused(delete(&server, "default").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(delete(&server, "nobody").await, Code::NotFound, "TENANT_NOT_FOUND");
    assert_eq!(submit(&server, "a", to(&origin, "/a", "x"), "r").await.job_id, id, "it goes on as it was");
    jobs(&server, "a").delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    delete(&server, "a").await.unwrap();
    let request = pb::SubmitJobRequest { job: Some(open_job("red")), ..Default::default() };
    refused(jobs(&server, "a").submit_job(request).await, Code::PermissionDenied, "TENANT_NOT_ALLOWED");
    let aside = server.downloads().join(".haul-tenants/.gone-16/d/x");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "old", "the files are put aside");
    make(&server, &["a"]).await;
    server.restart().await;
    assert!(list(&server, "a", pb::ListJobsRequest::default()).await.is_empty());
    let anew = submit(&server, "a", to(&origin, "/a", "x"), "r").await;
    assert!(anew.job_id != id && ended(&server, "a", &anew.job_id).await.state() == pb::JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_name_where_files_of_a_tenant_go() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let place = dir.path().join("of-acme");
    let file = dir.path().join("haul.toml");
    let settings = |place: &str| format!("[tenants.acme]\ndownload_dir = '{place}'\n");
    std::fs::write(&file, settings(dir.path().join("downloads/in").to_str().unwrap())).unwrap();
    let flags = ["--allow-private-networks", "--config", file.to_str().unwrap()];
    let (code, said) = refusal(command(dir.path(), &flags.map(ToOwned::to_owned)));
    assert!(code == 2 && said.contains("lie in each other"), "{said}");
    std::fs::write(&file, settings(place.to_str().unwrap())).unwrap();
    let server = Server::over(dir, &flags).await;
    let id = submit(&server, "acme", to(&origin, "/a", "x"), "").await.job_id;
    assert_eq!(ended(&server, "acme", &id).await.state(), pb::JobState::Succeeded);
    assert_eq!(std::fs::read_to_string(place.join("d/x")).unwrap(), "a");
    assert!(server.files().is_empty(), "{:?}", server.files());
}
