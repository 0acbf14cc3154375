package printed

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// CronJobs are printed as by Kubernetes.
var CronJobs = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Schedule", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]), column("Timezone", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
		typed("boolean", column("Suspend", batchv1.CronJobSpec{}.SwaggerDoc()["suspend"])),
		typed("integer", column("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"])),
		column("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]), ageColumn,
		wide("Containers", "Names of each container in the template."), wide("Images", "Images referenced by each container in the template."),
		wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		cronJob := object.(*batchv1.CronJob)
		zone, suspended, last := "<none>", "<unset>", "<none>"
		if cronJob.Spec.TimeZone != nil {
			zone = *cronJob.Spec.TimeZone
		}
		if suspend := cronJob.Spec.Suspend; suspend != nil {
			suspended = map[bool]string{false: "False", true: "True"}[*suspend]
		}
		if at := cronJob.Status.LastScheduleTime; at != nil {
			last = since(*at, now)
		}
		names, images := templateOf(&cronJob.Spec.JobTemplate.Spec.Template.Spec)
		return []any{
			cronJob.Name, cronJob.Spec.Schedule, zone, suspended, int64(len(cronJob.Status.Active)), last, since(cronJob.CreationTimestamp, now),
			names, images, metav1.FormatLabelSelector(cronJob.Spec.JobTemplate.Spec.Selector),
		}
	},
}

func typed(kind string, c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Type = kind
	return c
}
