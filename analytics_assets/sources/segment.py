"""The Segment spec as SQL: lines of JSON become single messages, and messages become canonical events.

Knows track, page, screen, identify, group and alias, single or in a batch, and the spec's clock-skew correction. One bad
message is one rejected row; its siblings in the batch survive. Duplicate keys in an object are tolerated: the first counts.
"""

from datetime import datetime

from analytics_assets.events.schema import SOURCE_COLUMNS
from analytics_assets.sources.mapping import moment, struct
from analytics_assets.warehouse.table import identifier, literal

# Columns under which a table may carry a message, and which of them hold JSON.
OBJECTS = ("context", "properties", "traits")
COLUMNS = (
    "type", "messageId", "userId", "anonymousId", "groupId", "previousId", "event", "name", "category",
    "timestamp", "originalTimestamp", "sentAt", "receivedAt", *OBJECTS,
)  # fmt: skip
# A batch line of MAX_LINE bytes can hold no more members, so (line, member) fits one number.
MEMBERS = 1 << 24

_PATHS = {
    **{name: f"/{name}" for name in COLUMNS},
    **{name: f"/properties/{name}" for name in ("revenue", "total", "price", "quantity", "currency")},
    "order_id": "/properties/order_id",
    "orderId": "/properties/orderId",
    "product_id": "/properties/product_id",
    "productId": "/properties/productId",
    "url": "/properties/url",
    "title": "/properties/title",
    "page_url": "/context/page/url",
    "page_title": "/context/page/title",
    "campaign": "/context/campaign/name",
    "country": "/context/location/country",
}
_AT = {name: index + 1 for index, name in enumerate(_PATHS)}
_CALLS = ("track", "page", "screen", "identify", "group", "alias")
_TIMES = ("timestamp", "originalTimestamp", "sentAt", "receivedAt")

# Events that move money; others may carry a price or a total without earning it. Names as the spec and its users write them.
_SALES = ("order completed", "product purchased", "product ordered")
_RETURNS = ("order refunded", "product returned")
# The spec gives these a `revenue` too, but the order has not been paid, or is counted under its completion.
_NOT_EARNED = ("checkout started", "order updated", "order cancelled")


def _names(values: tuple[str, ...]) -> str:
    return ", ".join(literal(value) for value in values)


def message_of_row(cells: dict[str, tuple[str, str]]) -> str:
    """SQL for the JSON text of a message that lies in columns: name -> (SQL, DuckDB type; "text" for CSV)."""
    members = {}
    for name, (sql, type_) in cells.items():
        sql = f"nullif({sql}, '')" if type_ == "text" else sql
        text = type_ in ("text", "VARCHAR", "JSON")
        # Only validity is asked for here: what is wrong inside an object is judged like that of any message.
        whole = f"case when json_valid({sql}) then try_cast({sql} as json) else to_json({sql}) end"
        members[name] = whole if text and name in OBJECTS else sql
    return f"to_json({struct(members)})::varchar"


def messages_select(lines: str) -> str:
    """Lines (`__rn`, `__damage`, `__raw`) to messages, one row each: the members of a batch come out one by one."""
    inherited = ", ".join(
        # A member's own null is no time: what the batch says is put in front, where it counts.
        f"case when coalesce(json_type(member, '/{name}'), 'NULL') = 'NULL' and {name} is not null "
        f"then '\"{name}\":' || {name} end"
        for name in ("sentAt", "receivedAt", "context")
    )
    return f"""
    with judged as (
        select __rn, __raw, case
            when __damage is not null then __damage
            when not json_valid(__raw) then 'bad_json'
            when coalesce(json_type(__raw), 'NULL') <> 'OBJECT' then 'not_an_object' end as damage
        from {lines}
    ), opened as (
        select *, case when damage is null then json_type(__raw, '/batch') end as batch_type from judged
    ), whole as (
        select *, case
            when batch_type <> 'ARRAY' then 'wrong_type:batch'
            when batch_type = 'ARRAY' and json_array_length(__raw, '/batch') = 0 then 'empty_batch' end as fault
        from opened
    ), batches as (
        select __rn, from_json(json_extract(__raw, '/batch'), '["JSON"]') as members,
            {
        ", ".join(
            f"nullif(json_extract(__raw, '/{name}')::varchar, 'null') as {name}" for name in ("sentAt", "receivedAt", "context")
        )
    }
        from whole where batch_type = 'ARRAY' and fault is null
    ), members as (
        select __rn * {MEMBERS} + generate_subscripts(members, 1) as __rn,
            coalesce(unnest(members)::varchar, 'null') as member, sentAt, receivedAt, context
        from batches
    ), inheriting as (
        select __rn, member, json_type(member) = 'OBJECT' as is_object, case when json_type(member) = 'OBJECT'
            then concat_ws(',', {inherited}) end as inherited
        from members
    )
    select __rn * {MEMBERS} as __rn, coalesce(damage, fault) as __damage, __raw from whole
    where batch_type is null or batch_type <> 'ARRAY' or fault is not null
    union all
    select __rn, case when is_object then null else 'not_an_object' end,
        case when is_object then spliced(member, inherited) else member end from inheriting
    """


def mapped_select(messages: str, tenant: str | None, received_at: datetime) -> str:
    """Messages (as `messages_select` gives them) to `mapped`."""
    paths = ", ".join(literal(path) for path in _PATHS.values())
    given = ", ".join(
        [
            *(f"case when t[{_AT[name]}] = 'VARCHAR' then unless_blank(v[{_AT[name]}]) end as {identifier(name)}"
              for name in COLUMNS if name not in OBJECTS),
            *(f"case when t[{_AT[name]}] = 'OBJECT' then v[{_AT[name]}] end as {identifier(name)}" for name in OBJECTS),
            *(f"as_time(case when t[{_AT[name]}] = 'VARCHAR' then v[{_AT[name]}] end) as {identifier(name + '_time')}"
              for name in _TIMES),
        ]
    )  # fmt: skip
    columns = ", ".join(f"{_value(column.name, tenant, received_at)} as {identifier(column.name)}" for column in SOURCE_COLUMNS)
    return f"""
    with deep as (
        select __rn, __raw, coalesce(__damage, case when too_deep(__raw) then 'too_deep' end) as __damage from {messages}
    ), pulled as (
        select *, case when __damage is null then json_type(__raw, [{paths}]) end as t,
            case when __damage is null then json_extract_string(__raw, [{paths}]) end as v
        from deep
    ), given as (
        select *, {given}, case when t[{_AT["type"]}] = 'VARCHAR' and v[{_AT["type"]}] = 'track'
            then lower(v[{_AT["event"]}]) end as deed
        from pulled
    ), computed as (
        select *, {_money()} as money, as_bigint({_scalar("quantity")}) as pieces from given
    )
    select __rn::bigint as rn, {columns}, {_reason()} as reason, __raw as raw from computed
    """


def _scalar(name: str) -> str:
    return f"case when t[{_AT[name]}] not in ('OBJECT', 'ARRAY', 'NULL') then nullif(v[{_AT[name]}], '') end"


def _present(name: str) -> str:
    """True where the message has the key with a value other than null; an empty string counts as no value."""
    return f"coalesce(t[{_AT[name]}], 'NULL') <> 'NULL' and v[{_AT[name]}] <> ''"


def _money() -> str:
    """Money in DECIMAL(38,8), wide enough for a price times any quantity; the sign says where it goes."""
    amount = (
        f"case when {_present('revenue')} then as_decimal({_scalar('revenue')}) "
        f"when deed in ({_names(_SALES + _RETURNS)}) then coalesce(as_decimal({_scalar('total')}), "
        f"as_price({_scalar('price')}) * coalesce(as_bigint({_scalar('quantity')}), 1)) end"
    )
    return (
        f"case when deed is null or deed in ({_names(_NOT_EARNED)}) then null "
        f"when deed in ({_names(_RETURNS)}) then -abs({amount}) else {amount} end"
    )


def _value(name: str, tenant: str | None, received_at: datetime) -> str:
    """SQL for one canonical column."""
    commerce = f"deed in ({_names(_RETURNS)})"
    members = (
        "case when type in ('identify', 'group') and traits is not null then '\"traits\":' || traits end, "
        "case when type = 'group' then '\"groupId\":' || to_json(groupId)::varchar end, "
        "case when type = 'alias' then '\"previousId\":' || to_json(previousId)::varchar end, "
        "case when type in ('page', 'screen') and category is not null "
        "then '\"category\":' || to_json(category)::varchar end"
    )
    # What the call itself says counts before a property of that name (web pages send their category as both).
    called = {"traits": "type in ('identify', 'group') and traits is not null", "groupId": "type = 'group'",
              "previousId": "type = 'alias'", "category": "type in ('page', 'screen') and category is not null"}  # fmt: skip
    both = " or ".join(f"({when} and contains(properties, '\"{key}\"'))" for key, when in called.items())
    removed = ", ".join(f"case when {when} then '\"{key}\":null' end" for key, when in called.items())
    own = (
        f"case when {both} then json_merge_patch(properties, '{{' || concat_ws(',', {removed}) || '}}')::varchar "
        "else coalesce(properties, '{}') end"
    )
    # In Segment's own output `timestamp` is corrected already; a raw payload carries the clock of the device.
    device = "coalesce(timestamp_time, originalTimestamp_time)"
    skewed = "sentAt_time is not null and receivedAt_time is not null and (originalTimestamp is null or timestamp is null)"
    corrected = f"make_timestamp(epoch_us(receivedAt_time) - (epoch_us(sentAt_time) - epoch_us({device})))"
    values = {
        "tenant_id": literal(tenant) if tenant is not None else "null::varchar",
        "message_id": "messageId",
        "type": "type",
        "event": "case type when 'track' then event when 'page' then coalesce(name, 'Page Viewed') "
        "when 'screen' then coalesce(name, 'Screen Viewed') when 'identify' then 'Identify' "
        "when 'group' then 'Group' when 'alias' then 'Alias' end",
        "user_id": "userId",
        "anonymous_id": "anonymousId",
        "timestamp": f"coalesce(case when {skewed} then {corrected} else {device} end, receivedAt_time, sentAt_time)",
        "received_at": f"coalesce(receivedAt_time, {moment(received_at)})",
        "properties": f"spliced({own}, concat_ws(',', {members}))",
        "context": "context",
        "revenue": "try_cast(money as decimal(18,4))",
        "quantity": f"case when {commerce} then -abs(pieces) else pieces end",
        "currency": f"upper({_scalar('currency')})",
        "order_id": f"coalesce({_scalar('order_id')}, {_scalar('orderId')})",
        "product_id": f"coalesce({_scalar('product_id')}, {_scalar('productId')})",
        "campaign": _scalar("campaign"),
        "region": _scalar("country"),
        "page_url": f"coalesce({_scalar('url')}, {_scalar('page_url')})",
        "page_title": f"coalesce({_scalar('title')}, {_scalar('page_title')})",
    }
    return values.get(name, "null::varchar")


def _reason() -> str:
    """The first fault of a message, or null."""
    needed = {"event": "track", "groupId": "group", "previousId": "alias"}
    wrong = [("type", _not_text("type"))]
    wrong += [(name, _not_text(name)) for name in ("messageId", "userId", "anonymousId", *_TIMES)]
    wrong += [(name, f"v[{_AT['type']}] = {literal(call)} and {_not_text(name)}") for name, call in needed.items()]
    wrong += [("name", f"v[{_AT['type']}] in ('page', 'screen') and {_not_text('name')}")]
    wrong += [(name, f"{identifier(name)} is not null and {identifier(name + '_time')} is null") for name in _TIMES]
    # NaN and Infinity are no JSON, though DuckDB reads them: no other reader of the published file would.
    wrong += [
        (name, f"coalesce(t[{_AT[name]}], 'NULL') not in ('NULL', 'OBJECT') or coalesce(has_nan({name}), false)")
        for name in OBJECTS
    ]
    commerce = f"deed in ({_names(_SALES + _RETURNS)})"
    for name in ("total", "price", "quantity"):
        number = {"total": "as_decimal", "price": "as_price", "quantity": "as_bigint"}[name]
        wrong.append((name, f"{commerce} and {_present(name)} and {number}({_scalar(name)}) is null"))
    earned = f"deed is not null and deed not in ({_names(_NOT_EARNED)})"
    wrong.append(("revenue", f"{earned} and {_present('revenue')} and as_decimal({_scalar('revenue')}) is null"))
    wrong.append(("revenue", "money is not null and try_cast(money as decimal(18,4)) is null"))
    missing = [
        ("missing_message_id", "messageId is null"),
        ("missing_type", "type is null"),
        ("unknown_type", f"type not in ({_names(_CALLS)})"),
        ("missing_event", "type = 'track' and event is null"),
        ("missing_user", "userId is null and (anonymousId is null or type = 'alias')"),
        ("missing_previous_id", "type = 'alias' and previousId is null"),
        ("missing_group_id", "type = 'group' and groupId is null"),
        ("missing_time", f"coalesce({', '.join(name + '_time' for name in _TIMES)}) is null"),
    ]
    rules = [*((f"wrong_type:{name}", condition) for name, condition in wrong), *missing]
    return "case when __damage is not null then __damage " + " ".join(
        f"when {condition} then {literal(reason)}" for reason, condition in rules
    ) + " end"  # fmt: skip


def _not_text(name: str) -> str:
    return f"coalesce(t[{_AT[name]}], 'NULL') not in ('NULL', 'VARCHAR')"
