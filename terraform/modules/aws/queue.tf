# Notices of the cloud: an instance will be taken back in two minutes, is likely to be, or has changed its state.

resource "aws_sqs_queue" "notices" {
  name                       = "${var.name}-notices"
  message_retention_seconds  = 3600 # a notice is stale long before
  visibility_timeout_seconds = 30
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true
  tags                       = local.tags
}

locals {
  notices = {
    interruption = "EC2 Spot Instance Interruption Warning"
    rebalance    = "EC2 Instance Rebalance Recommendation"
    state        = "EC2 Instance State-change Notification"
  }
}

resource "aws_cloudwatch_event_rule" "notice" {
  for_each      = local.notices
  name          = "${var.name}-${each.key}"
  description   = each.value
  event_pattern = jsonencode({ source = ["aws.ec2"], detail-type = [each.value] })
  tags          = local.tags
}

resource "aws_cloudwatch_event_target" "notice" {
  for_each = local.notices
  rule     = aws_cloudwatch_event_rule.notice[each.key].name
  arn      = aws_sqs_queue.notices.arn
}

data "aws_iam_policy_document" "notices" {
  statement {
    sid       = "RulesMaySend"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.notices.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [for rule in aws_cloudwatch_event_rule.notice : rule.arn]
    }
  }

  statement {
    sid       = "NothingInTheClear"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.notices.arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "notices" {
  queue_url = aws_sqs_queue.notices.url
  policy    = data.aws_iam_policy_document.notices.json
}
