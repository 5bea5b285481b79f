use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Environment { variables, ..Environment::default() }
}

fn registry(name: &str) -> CachePlace {
    CachePlace::Registry { name: name.parse().expect("a name"), insecure: false }
}

fn local(path: &str, tag: &str) -> CachePlace {
    CachePlace::Local { path: path.into(), tag: tag.into(), digest: None }
}

#[test]
fn places_to_read_from_are_understood() {
    let check = |text: &str, expected: CachePlace| {
        assert_eq!(from(text, &environment(&[])).expect(text).place, expected, "{text}");
    };
    check("r.example/app:cache", registry("r.example/app:cache"));
    check("app", registry("app:latest"));
    check("type=registry,ref=app:cache", registry("app:cache"));
    check(" TYPE=registry,Ref=app:cache", registry("app:cache"));
    let insecure = CachePlace::Registry { name: "r:5000/a".parse().expect("a name"), insecure: true };
    check("type=registry,ref=r:5000/a,registry.insecure=true", insecure);
    check("type=local,src=/c", local("/c", "latest"));
    check("type=local,\"src=a,b\",tag=v1", local("a,b", "v1"));
    let digest = Digest::of(b"x");
    let pinned = CachePlace::Local { path: "c".into(), tag: "latest".into(), digest: Some(digest) };
    check(&format!("type=local,src=c,digest={digest}"), pinned);
    let by_digest = format!("r.example/app@{digest}");
    check(&by_digest, registry(&by_digest));
}

#[test]
fn what_goes_out_is_understood() {
    let usual = |place: CachePlace| CacheTo {
        place,
        patience: PATIENCE,
        mode: CacheMode::Min,
        codec: Codec::new(Compression::Gzip),
        force_compression: false,
        ignore_error: None,
        mounts: false,
    };
    let check = |text: &str, expected: CacheTo| {
        assert_eq!(to(text, &environment(&[])).expect(text), expected, "{text}");
    };
    check("r.example/app:cache", usual(registry("r.example/app:cache")));
    check("type=inline", usual(CachePlace::Inline));
    check("type=inline,mode=min", usual(CachePlace::Inline));
    check("type=local,dest=c,tag=t", usual(local("c", "t")));
    check(
        "type=registry,ref=a,mode=max,oci-mediatypes=true,image-manifest=1,ignore-error=false,mounts=t",
        CacheTo { mode: CacheMode::Max, ignore_error: Some(false), mounts: true, ..usual(registry("a")) },
    );
    let zstd = Codec::with_level(Compression::Zstd, 19).expect("there is such a level");
    check(
        "type=local,dest=c,compression=zstd,compression-level=19,force-compression=TRUE,ignore-error=true",
        CacheTo { codec: zstd, force_compression: true, ignore_error: Some(true), ..usual(local("c", "latest")) },
    );
    let patience = Duration::from_secs(120);
    check("type=registry,ref=a,timeout=2m", CacheTo { patience, ..usual(registry("a")) });
    let plain = Codec::new(Compression::None);
    check("type=local,dest=c,compression=uncompressed", CacheTo { codec: plain, ..usual(local("c", "latest")) });
}

#[test]
fn patience_is_ten_seconds_unless_a_place_is_given_another() {
    let check = |text: &str, seconds: u64| {
        let each = from(text, &environment(&[])).expect(text).each();
        assert!(each.iter().all(|one| one.patience.as_secs() == seconds), "{text}: {each:?}");
    };
    check("a", 10);
    check("type=registry,ref=a,timeout=3s", 3);
    check("type=registry,ref=a,timeout=1h", 3600);
    check("type=s3,bucket=b,region=r,name=x;y,timeout=1m", 60);
    check("type=local,src=a", 10);
}

#[test]
fn buckets_are_understood_and_credentials_come_from_the_flag_or_the_environment() {
    let check = |text: &str, variables: &[(&str, &str)], expected: &dyn Fn(&S3Settings)| {
        let CachePlace::S3(place) = from(text, &environment(variables)).expect(text).place else { panic!("{text}") };
        expected(&place);
    };
    check("type=s3,bucket=b,region=r", &[], &|place| {
        assert_eq!((place.bucket.as_str(), place.region.as_str()), ("b", "r"));
        assert_eq!((&place.keys, &place.names, place.prefix.as_str()), (&None, &Vec::new(), ""));
        assert_eq!((place.use_path_style, place.upload_parallelism), (None, 4));
        assert_eq!((place.touch_refresh.as_secs(), &place.endpoint_url), (24 * 3600, &None));
    });
    check("type=s3,bucket=b,region=r,touch_refresh=90m", &[], &|place| {
        assert_eq!(place.touch_refresh.as_secs(), 90 * 60);
    });
    let all = "type=s3,bucket=b,region=r,name=a; c,prefix=p/,blobs_prefix=x/,manifests_prefix=y/,\
               endpoint_url=http://127.0.0.1:9000,use_path_style=true,upload_parallelism=9,\
               access_key_id=I,secret_access_key=S,session_token=T";
    check(all, &[("AWS_ACCESS_KEY_ID", "no")], &|place| {
        assert_eq!(place.names, ["a", "c"]);
        assert_eq!((place.prefix.as_str(), place.use_path_style, place.upload_parallelism), ("p/", Some(true), 9));
        assert_eq!(place.blobs_prefix.as_deref(), Some("x/"));
        assert_eq!(place.manifests_prefix.as_deref(), Some("y/"));
        assert_eq!(place.endpoint_url.as_deref(), Some("http://127.0.0.1:9000"));
        let keys = place.keys.as_ref().expect("they were given");
        assert_eq!((keys.access_key_id.expose(), keys.secret_access_key.expose()), ("I", "S"));
        assert_eq!(keys.session_token.as_ref().map(Secret::expose), Some("T"));
        assert!(!format!("{place:?}").contains("\"S\""), "{place:?}");
    });
    let variables = [
        ("AWS_BUCKET", "eb"),
        ("AWS_REGION", "er"),
        ("AWS_ACCESS_KEY_ID", "ei"),
        ("AWS_SECRET_ACCESS_KEY", "es"),
        ("AWS_SESSION_TOKEN", "et"),
    ];
    check("type=s3,region=mine", &variables, &|place| {
        assert_eq!((place.bucket.as_str(), place.region.as_str()), ("eb", "mine"));
        let keys = place.keys.as_ref().expect("they are in the environment");
        assert_eq!(keys.secret_access_key.expose(), "es");
        assert_eq!(keys.session_token.as_ref().map(Secret::expose), Some("et"));
    });
    let other =
        [("AWS_DEFAULT_REGION", "dr"), ("AWS_ENDPOINT_URL", "http://h:1"), ("AWS_ENDPOINT_URL_S3", "http://h:2")];
    check("type=s3,bucket=b", &other, &|place| {
        assert_eq!((place.region.as_str(), place.endpoint_url.as_deref()), ("dr", Some("http://h:2")));
    });
    check("type=s3,access_key_id=I,secret_access_key=S", &variables, &|place| {
        let keys = place.keys.as_ref().expect("they were given");
        assert_eq!(keys.session_token, None, "the environment's session is of other credentials");
    });
}

#[test]
fn a_bucket_is_asked_for_each_name_in_order() {
    let names = |text: &str| {
        let places = from(text, &environment(&[])).expect(text).each().into_iter().map(|from| match from.place {
            CachePlace::S3(place) => place.names.join(";"),
            other => panic!("{other:?}"),
        });
        places.collect::<Vec<_>>()
    };
    assert_eq!(names("type=s3,bucket=b,region=r"), [""]);
    assert_eq!(names("type=s3,bucket=b,region=r,name=a"), ["a"]);
    assert_eq!(names("type=s3,bucket=b,region=r,name=pull-7;main"), ["pull-7", "main"]);
}

#[test]
fn what_is_no_cache_is_refused_with_advice_and_without_secrets() {
    let check = |text: &str, expected: &str| {
        for (flag, parsed) in [
            ("--cache-from", from(text, &environment(&[])).map(drop)),
            ("--cache-to", to(text, &environment(&[])).map(drop)),
        ] {
            let expected = match expected.split_once(": ") {
                Some((only, expected)) if only.starts_with("--") => match only == flag {
                    true => expected,
                    false => continue,
                },
                _ => expected,
            };
            let failure = parsed.expect_err(text);
            let problem = &failure.problems[0];
            let said = format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default());
            assert!(said.contains(expected) && said.contains(flag), "{text}: {said}");
            assert!(!said.contains("hush"), "{said}");
        }
    };
    check("", "says no place");
    check("type=registry", "there is no `ref`");
    check("type=registry,ref=", "there is no `ref`");
    check("type=registry,ref=A B", "`--cache-");
    check("type=registry,ref=a,rfe=b", "did you mean `ref`?");
    check("type=registry,ref=a,dest=b", "`dest` is not supported here");
    check("type=registry,ref=a,bucket=b", "it is for `type=s3`");
    check("type=registry,ref=a,x", "not of the form key=value");
    check("type=registry,\"ref=a", "a quote is not closed");
    check("ref=a", "there is no type");
    check("type=regsitry,ref=a", "did you mean `registry`?");
    check("type=ftp", "the types are inline, registry, local and s3");
    check("type=gha", "`type=registry,ref=ghcr.io/");
    check("type=gha,scope=x", "the type `gha` is not supported");
    check("type=azblob,name=x", "the type `azblob` is not supported");
    check("type=local", "there is no `");
    check("type=local,src=a", "--cache-to: `src` is not for `--cache-to` / write `dest=DIR`");
    check("type=local,dest=a", "--cache-from: `dest` is not for `--cache-from` / write `src=DIR`");
    check("type=local,src=a,digest=b", "--cache-from: `b`");
    check("type=local,src=a,tag=a/b", "--cache-from: `a/b` is no tag");
    let digest = Digest::of(b"x");
    check(&format!("type=local,dest=a,digest={digest}"), "--cache-to: `digest` is for `--cache-from`");
    check(&format!("a@{digest}"), "--cache-to: names a digest");
    check("type=inline", "--cache-from: an inline cache is read from its image");
    check("type=inline,mode=max", "--cache-to: the steps of its image only");
    check("type=inline,mounts=true", "--cache-to: do not fit into an image's config");
    check("type=inline,ref=a", "--cache-to: `ref` is not supported here");
    check("a,mode=max", "not of the form key=value");
    check("type=registry,ref=a,mode=max", "--cache-from: `mode` is not supported here / it is for `--cache-to`");
    check("type=registry,ref=a,mode=all", "--cache-to: neither min nor max");
    check("type=registry,ref=a,compression=lz4", "--cache-to: unknown compression `lz4`");
    check("type=registry,ref=a,compression=estargz", "--cache-to: use `compression=zstd`");
    check("type=registry,ref=a,compression-level=99", "--cache-to: gzip has no level 99");
    check("type=registry,ref=a,compression-level=x", "--cache-to: is no number");
    check("type=registry,ref=a,ignore-error=perhaps", "--cache-to: neither true nor false");
    check("type=registry,ref=a,oci-mediatypes=false", "--cache-to: a cache has OCI's media types");
    check("type=registry,ref=a,image-manifest=false", "--cache-to: every registry takes");
    check("type=registry,ref=a,registry.insecure=maybe", "neither true nor false");
    check("type=s3,region=r", "there is no `bucket`");
    check("type=s3,bucket=b", "there is no `region`");
    check("type=s3,bucket=b,region=r,secret_access_key=hush", "not complete");
    check("type=s3,bucket=b,region=r,access_key_id=hush", "not complete");
    check("type=s3,bucket=b,region=r,session_token=hush", "not complete");
    check("type=s3,bucket=b,region=r,secret_access_key=\"a,hush", "not of the form key=value");
    check("type=s3,bucket=b,region=r,endpoint_url=https://u:hush@h", "holds credentials");
    check("type=s3,bucket=b,region=r,endpoint_url=h:1", "is no address");
    check("type=s3,bucket=b,region=r,touch_refresh=soon", "is no time");
    check("type=s3,bucket=b,region=r,touch_refresh=-1h", "is no time");
    check("type=s3,bucket=b,region=r,timeout=0", "no time to answer in");
    check("type=registry,ref=a,timeout=10", "`timeout=10` is no time / write `24h`, `90m` or `30s`");
    check("type=local,src=a,dest=a,timeout=10s", "is not for");
    check("type=s3,bucket=b,region=r,upload_parallelism=0", "no number from 1 to 64");
    check("type=s3,bucket=b,region=r,secret_access_key=hush,access_key_id=hush,x=y", "`x` is not supported");
}
